"""Access: who is calling, and what they may see and do."""

from trivet.access.keys import KeyRecord, Keyring
from trivet.access.permissions import require_admin, require_scope

__all__ = ["KeyRecord", "Keyring", "require_admin", "require_scope"]
