"""Access: who is calling, what they may see and do, and how fast."""

from trivet.access.keys import KeyRecord, Keyring
from trivet.access.permissions import (
    require_above,
    require_admin,
    require_inference,
    require_reader_of_all,
    require_scope,
    require_tenant_admin,
)
from trivet.access.rates import Admitted, RateLimit, RateLimits

__all__ = [
    "Admitted",
    "KeyRecord",
    "Keyring",
    "RateLimit",
    "RateLimits",
    "require_above",
    "require_admin",
    "require_inference",
    "require_reader_of_all",
    "require_scope",
    "require_tenant_admin",
]
