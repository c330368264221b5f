"""The built-in filters, in the order in which they run."""

from __future__ import annotations

from kilonova.scheduler.filters.aggregate_extra_specs import AGGREGATE_EXTRA_SPECS
from kilonova.scheduler.filters.availability_zone import AVAILABILITY_ZONE
from kilonova.scheduler.filters.capabilities import CAPABILITIES
from kilonova.scheduler.filters.compute import COMPUTE
from kilonova.scheduler.filters.disk import DISK
from kilonova.scheduler.filters.image_properties import IMAGE_PROPERTIES
from kilonova.scheduler.filters.ram import RAM
from kilonova.scheduler.filters.requested_host import REQUESTED_HOST
from kilonova.scheduler.filters.retry import RETRY
from kilonova.scheduler.filters.vcpus import VCPUS

BUILT_IN = [
    COMPUTE,
    REQUESTED_HOST,
    RETRY,
    AVAILABILITY_ZONE,
    AGGREGATE_EXTRA_SPECS,
    CAPABILITIES,
    IMAGE_PROPERTIES,
    VCPUS,
    RAM,
    DISK,
]
GROUP = "kilonova.scheduler.filters"
