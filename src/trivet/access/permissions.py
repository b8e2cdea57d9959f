"""What a caller may see and do. Roles for now: `admin` (the whole installation), `tenant` (its own scope)."""

from trivet.domain.errors import NotFound, PermissionDenied
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, contains

ROLES = ("admin", "tenant")


def require_admin(principal: Principal) -> None:
    """Let only admins pass.

    Raises:
        PermissionDenied: the key has another role.
    """
    if not principal.is_admin:
        raise PermissionDenied(
            f"The key {principal.key_id} has the role {principal.role}; this takes an admin key.",
            hint="Ask whoever runs this Trivet.",
        )


def require_scope(principal: Principal, scope: Scope) -> None:
    """Let admins pass, and tenants for their own scope and what lies below it.

    Raises:
        NotFound: the scope is somebody else's; whether it exists is not told.
    """
    if not principal.is_admin and not contains(principal.scope, scope):
        raise NotFound(f"There is no scope {scope}.", param="scope")
