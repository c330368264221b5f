"""Neutron's errors under Neutron's names: the name is the ``type`` that a client reads in the fault."""

from __future__ import annotations

from kilonova.domain.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
)


class InvalidInput(BadRequest):
    """What is asked makes no sense, or is not offered."""

    def __init__(self, message: str, details: object = None) -> None:
        super().__init__(f"Invalid input for operation: {message}.", details)


class InvalidIpForNetwork(BadRequest):
    pass


class InvalidIpForSubnet(BadRequest):
    pass


class AllocationOnAutoAddressSubnet(BadRequest):
    pass


class InvalidAllocationPool(BadRequest):
    pass


class OutOfBoundsAllocationPool(BadRequest):
    pass


class PolicyNotAuthorized(Forbidden):
    pass


class RevisionNumberConstraintFailed(PreconditionFailed):
    pass


class NetworkNotFound(NotFound):
    pass


class SubnetNotFound(NotFound):
    pass


class PortNotFound(NotFound):
    pass


class TagNotFound(NotFound):
    pass


class TenantQuotaNotFound(NotFound):
    pass


class NetworkInUse(Conflict):
    pass


class TunnelIdInUse(Conflict):
    pass


class NoNetworkAvailable(Conflict):
    """No VXLAN identifier is left."""


class SubnetInUse(Conflict):
    pass


class PortInUse(Conflict):
    pass


class ServicePortInUse(Conflict):
    pass


class IpAddressInUse(Conflict):
    pass


class MacAddressInUse(Conflict):
    pass


class IpAddressGenerationFailure(Conflict):
    pass


class IpAddressGenerationFailureNoMatchingSubnet(IpAddressGenerationFailure):
    pass


class InvalidSubnetServiceType(BadRequest):
    pass


class OverlappingAllocationPools(Conflict):
    pass


class GatewayConflictWithAllocationPools(Conflict):
    pass


class GatewayIpInUse(Conflict):
    pass


class InvalidSharedSetting(Conflict):
    pass


class AddressPairAndPortSecurityRequired(Conflict):
    pass


class SecurityGroupRuleInvalidProtocol(BadRequest):
    pass


class SecurityGroupRuleInvalidEtherType(BadRequest):
    pass


class SecurityGroupRuleParameterConflict(BadRequest):
    pass


class SecurityGroupEthertypeConflictWithProtocol(BadRequest):
    pass


class SecurityGroupProtocolRequiredWithPorts(BadRequest):
    pass


class SecurityGroupInvalidProtocolForPort(BadRequest):
    pass


class SecurityGroupInvalidPortRange(BadRequest):
    pass


class SecurityGroupInvalidPortValue(BadRequest):
    pass


class SecurityGroupInvalidIcmpValue(BadRequest):
    pass


class SecurityGroupMissingIcmpType(BadRequest):
    pass


class SecurityGroupRemoteGroupAndRemoteIpPrefix(BadRequest):
    pass


class SecurityGroupMultipleRemoteEntites(BadRequest):
    """Neutron's spelling."""


class AgentNotFound(NotFound):
    pass


class AddressGroupNotFound(NotFound):
    pass


class AddressGroupInUse(Conflict):
    pass


class AddressesNotFound(NotFound):
    pass


class AddressesAlreadyExist(BadRequest):
    pass


class InvalidCIDR(BadRequest):
    pass


class SecurityGroupNotFound(NotFound):
    pass


class SecurityGroupRuleNotFound(NotFound):
    pass


class SecurityGroupInUse(Conflict):
    pass


class SecurityGroupRuleExists(Conflict):
    pass


class DefaultSecurityGroupRuleNotFound(NotFound):
    pass


class DefaultSecurityGroupRuleExists(Conflict):
    pass


class SecurityGroupDefaultAlreadyExists(Conflict):
    pass


class SecurityGroupCannotUpdateDefault(Conflict):
    pass


class SecurityGroupCannotRemoveDefault(Conflict):
    pass


class PortSecurityPortHasSecurityGroup(Conflict):
    pass


class PortSecurityAndIPRequiredForSecurityGroups(Conflict):
    pass


class InvalidQuotaValue(Conflict):
    pass


class ExternalNetworkInUse(Conflict):
    pass


class RouterNotFound(NotFound):
    pass


class RouterInUse(Conflict):
    pass


class BadRouterRequest(BadRequest):
    """Neutron calls it by the name of its base."""

    neutron_type = "BadRequest"

    def __init__(self, message: str, details: object = None) -> None:
        super().__init__(f"Bad router request: {message}.", details)


class RouterInterfaceNotFound(NotFound):
    pass


class RouterInterfaceNotFoundForSubnet(NotFound):
    pass


class RouterInterfaceInUseByFloatingIP(Conflict):
    pass


class RouterInterfaceInUseByRoute(Conflict):
    pass


class RouterExternalGatewayInUseByFloatingIp(Conflict):
    pass


class SubnetMismatchForPort(Conflict):
    pass


class InvalidRoutes(BadRequest):
    pass


class RoutesExhausted(BadRequest):
    pass


class FloatingIPNotFound(NotFound):
    pass


class BadFloatingIpRequest(BadRequest):
    """Neutron calls it by the name of its base."""

    neutron_type = "BadRequest"

    def __init__(self, message: str, details: object = None) -> None:
        super().__init__(f"Bad floatingip request: {message}.", details)


class ExternalGatewayForFloatingIPNotFound(NotFound):
    pass


class FloatingIPPortAlreadyAssociated(Conflict):
    pass


class FipInUseByPortForwarding(Conflict):
    pass


class PortForwardingNotFound(NotFound):
    pass


class PortHasBindingFloatingIP(Conflict):
    pass


class BadPortForwardingRequest(BadRequest):
    """Neutron calls it by the name of its base."""

    neutron_type = "BadRequest"

    def __init__(self, message: str, details: object = None) -> None:
        super().__init__(f"Bad port_forwarding request: {message}.", details)


class OverQuota(QuotaExceeded):
    """Neutron says 409 where Nova says 403."""

    status = 409


class RbacPolicyNotFound(NotFound):
    pass


class RbacPolicyInUse(Conflict):
    pass


class DuplicateRbacPolicy(Conflict):
    pass


class SubnetPoolNotFound(NotFound):
    pass


class SubnetPoolDeleteError(BadRequest):
    pass


class IllegalSubnetPoolPrefixBounds(BadRequest):
    pass


class IllegalSubnetPoolUpdate(BadRequest):
    pass


class UnsupportedMinSubnetPoolPrefix(BadRequest):
    pass


class PrefixVersionMismatch(BadRequest):
    pass


class EmptySubnetPoolPrefixList(BadRequest):
    pass


class MinPrefixSubnetAllocationError(BadRequest):
    pass


class MaxPrefixSubnetAllocationError(BadRequest):
    pass


class NetworkSubnetPoolAffinityError(BadRequest):
    pass


class SubnetAllocationError(Conflict):
    pass


class SubnetPoolQuotaExceeded(OverQuota):
    pass


class DefaultExternalNetworkExists(Conflict):
    pass


class AvailabilityZoneNotFound(NotFound):
    pass


class AutoAllocationFailure(Conflict):
    def __init__(self, reason: str, details: object = None) -> None:
        super().__init__(f"Deployment error: {reason}.", details)
