"""GET /extensions: the names that parts of the API had before microversions. Only of what is really here."""

from __future__ import annotations

from typing import Any

from kilonova.api.compute import queries
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import NotFound

_TABLE = """
OS-DCF                  DiskConfig                Disk Management Extension.
OS-EXT-AZ               ExtendedAvailabilityZone  Extended Availability Zone support.
OS-EXT-IPS              ExtendedIps               Adds type parameter to the ip list.
OS-EXT-IPS-MAC          ExtendedIpsMac            Adds mac address parameter to the ip list.
OS-EXT-SRV-ATTR         ExtendedServerAttributes  Extended Server Attributes support.
OS-EXT-STS              ExtendedStatus            Extended Status support.
OS-FLV-DISABLED         FlavorDisabled            Support to show the disabled status of a flavor.
OS-FLV-EXT-DATA         FlavorExtraData           Provide additional data for flavors.
OS-SCH-HNT              SchedulerHints            Pass arbitrary key/value pairs to the scheduler.
OS-SRV-USG              ServerUsage               Adds launched_at and terminated_at on Servers.
os-access-ips           AccessIPs                 Access IPs support.
os-admin-actions        AdminActions              Admin-only server actions: os-resetState.
os-aggregates           Aggregates                Admin-only aggregate administration.
os-attach-interfaces    AttachInterfaces          Attach interface support.
os-availability-zone    AvailabilityZone          Availability zones, and servers created in one.
os-block-device-mapping BlockDeviceMapping        Block device mapping boot support.
os-config-drive         ConfigDrive               Config Drive Extension.
os-console-output       ConsoleOutput             Console log output support, with tailing ability.
os-create-backup        CreateBackup              Create a backup of a server.
os-extended-hypervisors ExtendedHypervisors       Extended hypervisors support.
os-extended-quotas      ExtendedQuotas            Admins may delete a quota, and force its update.
os-extended-services    ExtendedServices          Extended services support.
os-extended-services-delete ExtendedServicesDelete Extended services deletion support.
os-extended-status      ExtendedStatus            Extended Status support.
os-flavor-access        FlavorAccess              Flavor access support.
os-flavor-extra-specs   FlavorExtraSpecs          Flavors extra specs support.
os-flavor-manage        FlavorManage              Flavor create/delete API support.
os-flavor-rxtx          FlavorRxtx                Support to show the rxtx status of a flavor.
os-flavor-swap          FlavorSwap                Support to show the swap status of a flavor.
os-hypervisor-status    HypervisorStatus          Show hypervisor status.
os-hypervisors          Hypervisors               Admin-only hypervisor administration.
os-instance-actions     InstanceActions           View a log of actions and events taken on an instance.
os-keypairs             Keypairs                  Keypair Support.
os-lock-server          LockServer                Enable lock/unlock server actions.
os-multinic             Multinic                  Multiple network support.
os-multiple-create      MultipleCreate            Allow multiple create in the Create Server v2.1 API.
os-pause-server         PauseServer               Enable pause/unpause server actions.
os-quota-class-sets     QuotaClasses              Quota classes management support.
os-quota-sets           Quotas                    Quotas management support.
os-rescue               Rescue                    Instance rescue mode.
os-security-groups      SecurityGroups            Security group support of servers.
os-server-diagnostics   ServerDiagnostics         Admins see what a guest uses and moves.
os-server-external-events ServerExternalEvents    Server External Event Triggers.
os-server-list-multi-status ServerListMultiStatus Allow to filter the servers by a set of status values.
os-server-password      ServerPassword            Server password support.
os-server-sort-keys     ServerSortKeys            Add sorting support in get Server v2 API.
os-server-start-stop    ServerStartStop           Start/Stop instance compute API support.
os-services             Services                  Services support.
os-shelve               Shelve                    Instance shelve mode.
os-simple-tenant-usage  SimpleTenantUsage         Simple tenant usage extension.
os-suspend-server       SuspendServer             Enable suspend/resume server actions.
os-used-limits          UsedLimits                Provide data on limited resources that are being used.
os-used-limits-for-admin UsedLimitsForAdmin       What other projects use, for the admin.
os-user-data            UserData                  Add user_data to the Create Server API.
"""


def index(_api: ComputeAPI, request: Request) -> Reply:
    queries.check(request)
    return Reply(body={"extensions": list(_EXTENSIONS.values())})


def show(_api: ComputeAPI, request: Request, alias: str) -> Reply:
    queries.check(request)
    if alias not in _EXTENSIONS:
        raise NotFound("The resource could not be found.")
    return Reply(body={"extension": _EXTENSIONS[alias]})


def _extension(line: str) -> dict[str, Any]:
    alias, name, description = line.split(maxsplit=2)
    return {
        "alias": alias,
        "name": name,
        "description": description,
        "links": [],
        # The same for all, in Nova too.
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": "2014-12-03T00:00:00Z",
    }


_EXTENSIONS = {one["alias"]: one for one in map(_extension, _TABLE.strip().splitlines())}

ROUTES = [
    Route("GET", "/extensions", index),
    Route("GET", "/extensions/{alias}", show),
]
