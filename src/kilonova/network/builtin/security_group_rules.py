"""Rules of security groups: what may be written, in Neutron's words. Inside the caller's transaction."""

from __future__ import annotations

import uuid
from ipaddress import ip_interface

import sqlalchemy as sa
from msgspec import UNSET, structs

from kilonova.config import Config
from kilonova.domain.addresses import network_of
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.security_groups import (
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    NUMBERS,
    WITH_PORTS,
    Filter,
    SecurityGroupRule,
    protocol_number,
)
from kilonova.network.builtin import address_groups, errors, policy, quotas, security_groups
from kilonova.network.builtin.changes import Change, changed
from kilonova.network.builtin.requests import SecurityGroupRuleCreate, SecurityGroupRuleUpdate
from kilonova.store import security_group_rules as store
from kilonova.store import security_groups as group_store

_IPV6_ALONE = frozenset(name for name in NUMBERS if name.startswith("ipv6-") or name == "icmpv6")
_IPV6_NUMBERS = frozenset(str(NUMBERS[name]) for name in _IPV6_ALONE)
_ETHERTYPES = {name.lower(): name for name in (IPV4, IPV6)}


def find(conn: sa.Connection, context: RequestContext, rule_id: str) -> SecurityGroupRule:
    """The rule, if the asker sees it; SecurityGroupRuleNotFound else."""
    rule = store.get(conn, rule_id, policy.scope(context))
    if rule is None:
        raise errors.SecurityGroupRuleNotFound(f"Security group rule {rule_id} does not exist")
    return rule


def create(
    conn: sa.Connection, config: Config, context: RequestContext, body: SecurityGroupRuleCreate
) -> SecurityGroupRule:
    asked = (body.project_id, body.tenant_id)
    policy.project_of_new(context, *asked, "rule:create_security_group_rule")
    rule = checked(body)
    group = security_groups.find(conn, context, rule.security_group_id, for_update=True)
    policy.owner_only(context, "rule:create_security_group_rule", group.project_id)
    if rule.remote_group_id is not None:
        security_groups.kept(conn, policy.scope(context), [rule.remote_group_id])
    if rule.remote_address_group_id is not None:
        address_groups.kept(conn, context, rule.remote_address_group_id)
    # It belongs to whom the group belongs to, whoever writes it.
    rule = structs.replace(rule, project_id=group.project_id)
    quotas.check(conn, config, group.project_id, "security_group_rule")
    for other in store.of_groups(conn, [group.id]).get(group.id, []):
        if filter_of(other) == filter_of(rule):
            raise errors.SecurityGroupRuleExists(
                f"Security group rule already exists. Rule id is {other.id}."
            )
    store.insert(conn, [rule])
    group_store.update(conn, group.id, {})
    changed(conn, Change(groups=[group.id]))
    return rule


def update(
    conn: sa.Connection,
    _config: Config,
    context: RequestContext,
    rule_id: str,
    body: SecurityGroupRuleUpdate,
) -> SecurityGroupRule:
    rule = find(conn, context, rule_id)
    policy.owner_only(context, "rule:update_security_group_rule", rule.project_id)
    if body.description is not UNSET:
        store.update(conn, rule_id, {"description": body.description or ""})
        group_store.update(conn, rule.security_group_id, {})
    return find(conn, context, rule_id)


def delete(conn: sa.Connection, context: RequestContext, rule_id: str) -> None:
    rule = find(conn, context, rule_id)
    policy.owner_only(context, "rule:delete_security_group_rule", rule.project_id)
    group_store.update(conn, rule.security_group_id, {})
    if not store.delete(conn, rule_id):
        raise errors.SecurityGroupRuleNotFound(f"Security group rule {rule_id} does not exist")
    changed(conn, Change(groups=[rule.security_group_id]))


def owners(_conn: sa.Connection, rule: SecurityGroupRule) -> list[str]:
    return [rule.project_id]


def filter_of(rule: SecurityGroupRule) -> Filter:
    """What it means. Two rules that mean the same are one rule twice."""
    prefix = network_of(rule.remote_ip_prefix)
    return Filter(
        direction=rule.direction,
        ethertype=rule.ethertype,
        protocol=protocol_number(rule.protocol, rule.ethertype),
        port_min=rule.port_range_min,
        port_max=rule.port_range_max,
        remote_prefix=None if prefix in ("0.0.0.0/0", "::/0") else prefix,
        remote_group=rule.remote_group_id or rule.remote_address_group_id,
    )


def checked(body: SecurityGroupRuleCreate) -> SecurityGroupRule:
    """The body as a rule that makes sense; of no project yet."""
    if body.remote_address_group_id is not None and (body.remote_group_id or body.remote_ip_prefix):
        raise errors.SecurityGroupMultipleRemoteEntites(
            "Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided."
        )
    if body.remote_group_id is not None and body.remote_ip_prefix is not None:
        raise errors.SecurityGroupRemoteGroupAndRemoteIpPrefix(
            "Only remote_ip_prefix or remote_group_id may be provided."
        )
    ethertype = _ethertype(body.ethertype)
    protocol = _protocol(body.protocol)
    if ethertype == IPV4 and protocol in _IPV6_ALONE | _IPV6_NUMBERS:
        raise errors.SecurityGroupEthertypeConflictWithProtocol(
            f"Invalid ethertype {ethertype} for protocol {protocol}."
        )
    _check_ports(protocol, ethertype, body.port_range_min, body.port_range_max)
    made = now()
    return SecurityGroupRule(
        id=str(uuid.uuid4()),
        security_group_id=body.security_group_id,
        project_id="",
        direction=body.direction,
        ethertype=ethertype,
        protocol=protocol,
        port_range_min=body.port_range_min,
        port_range_max=body.port_range_max,
        remote_ip_prefix=_prefix(body.remote_ip_prefix, ethertype),
        remote_group_id=body.remote_group_id,
        remote_address_group_id=body.remote_address_group_id,
        description=body.description or "",
        created_at=made,
        updated_at=made,
    )


def _ethertype(asked: str | None) -> str:
    if asked is None:
        return IPV4
    if asked.lower() not in _ETHERTYPES:
        raise errors.SecurityGroupRuleInvalidEtherType(
            f"Security group rule for ethertype '{asked}' not supported. "
            f"Allowed values are {sorted(_ETHERTYPES.values())}."
        )
    return _ETHERTYPES[asked.lower()]


def _protocol(asked: str | int | None) -> str | None:
    """A name, or a number as text, as it was written."""
    if asked is None:
        return None
    text = str(asked).lower()
    if text == "any":
        return None
    if text in NUMBERS:
        return text
    if text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) <= 255:
        return str(int(text))
    raise errors.SecurityGroupRuleInvalidProtocol(
        f"Security group rule protocol {asked} not supported. Only protocol values "
        f"{[None, *sorted(NUMBERS)]} and integer representations [0 to 255] are supported."
    )


def _check_ports(protocol: str | None, ethertype: str, low: int | None, high: int | None) -> None:
    if low is None and high is None:
        return
    number = protocol_number(protocol, ethertype)
    if number is None:
        raise errors.SecurityGroupProtocolRequiredWithPorts(
            "Must also specify protocol if port range is given."
        )
    if number in (ICMP, ICMPV6):
        _check_icmp(low, high)
    elif number not in WITH_PORTS:
        raise errors.SecurityGroupInvalidProtocolForPort(
            f"Invalid protocol {protocol} for port range, only supported for TCP, UDP, UDPLITE, SCTP and "
            "DCCP."
        )
    else:
        _check_range(low, high)


def _check_icmp(kind: int | None, code: int | None) -> None:
    for field, attribute, value in (("type", "port-range-min", kind), ("code", "port-range-max", code)):
        if value is not None and not 0 <= value <= 255:
            raise errors.SecurityGroupInvalidIcmpValue(
                f"Invalid value for ICMP {field} ({attribute}) {value}. It must be 0 to 255."
            )
    if kind is None:
        raise errors.SecurityGroupMissingIcmpType(
            f"ICMP code (port-range-max) {code} is provided but ICMP type (port-range-min) is missing."
        )


def _check_range(low: int | None, high: int | None) -> None:
    for value in (low, high):
        if value is not None and not 1 <= value <= 65535:
            raise errors.SecurityGroupInvalidPortValue(f"Invalid value for port {value}")
    if low is None or high is None or low > high:
        raise errors.SecurityGroupInvalidPortRange(
            "For TCP/UDP protocols, port_range_min must be <= port_range_max"
        )


def _prefix(asked: str | None, ethertype: str) -> str | None:
    if asked is None:
        return None
    wrong = errors.InvalidCIDR(f"Invalid CIDR {asked} given as IP prefix.")
    if "%" in asked:  # a zone, which ip_network() takes, and which means something on one host at most
        raise wrong
    try:
        prefix = ip_interface(asked)
    except ValueError as error:
        raise wrong from error
    if prefix.version != (4 if ethertype == IPV4 else 6):
        raise errors.SecurityGroupRuleParameterConflict(
            f"Conflicting value ethertype {ethertype} for CIDR {asked}"
        )
    return str(prefix)
