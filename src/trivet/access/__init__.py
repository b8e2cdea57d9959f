"""Access: who is calling, what they may see and do, and how fast."""

from trivet.access.gauges import Admitted, RateLimit
from trivet.access.keys import KeyRecord, Keyring
from trivet.access.permissions import (
    require_above,
    require_admin,
    require_inference,
    require_reader_of_all,
    require_scope,
    require_tenant_admin,
)
from trivet.access.rates import RateLimits
from trivet.access.shared_rates import SharedRates, shared_rates

__all__ = [
    "Admitted",
    "KeyRecord",
    "Keyring",
    "RateLimit",
    "RateLimits",
    "SharedRates",
    "require_above",
    "require_admin",
    "require_inference",
    "require_reader_of_all",
    "require_scope",
    "require_tenant_admin",
    "shared_rates",
]
