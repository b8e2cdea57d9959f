"""What a caller may see and do, by its key's role.

| role | reads | changes |
|---|---|---|
| `admin` | everything | everything |
| `auditor` | everything | nothing, and asks no engine |
| `tenant_admin` | its scope and below | what bounds those below; keys of its scope; requests for overrides |
| `tenant` | its scope and below | nothing; asks engines |

A scope that is not the caller's to see does not exist for it.
"""

from trivet.domain.errors import NotFound, PermissionDenied
from trivet.domain.requests import ROLES, Principal
from trivet.domain.scopes import Scope, contains

__all__ = ["ROLES"]


def require_admin(principal: Principal) -> None:
    """Let only admins pass.

    Raises:
        PermissionDenied: the key has another role.
    """
    if not principal.is_admin:
        raise _denied(principal, "an admin key")


def require_reader_of_all(principal: Principal) -> None:
    """Let those pass who may read everything: admins and auditors.

    Raises:
        PermissionDenied: the key has another role.
    """
    if not principal.sees_all:
        raise _denied(principal, "an admin's or an auditor's key")


def require_scope(principal: Principal, scope: Scope) -> None:
    """Let those pass who may read everything, and others for their own scope and what lies below it.

    Raises:
        NotFound: the scope is somebody else's; whether it exists is not told.
    """
    if not principal.sees_all and not contains(principal.scope, scope):
        raise NotFound(f"There is no scope {scope}.", param="scope")


def require_tenant_admin(principal: Principal, scope: Scope) -> None:
    """Let admins pass, and tenant admins for their own scope and what lies below it.

    Raises:
        NotFound: the scope is somebody else's.
        PermissionDenied: it is the caller's to see, not to change.
    """
    require_scope(principal, scope)
    if principal.role not in ("admin", "tenant_admin"):
        raise _denied(principal, "an admin's or a tenant admin's key")


def require_above(principal: Principal, scope: Scope) -> None:
    """Let admins pass, and tenant admins for what lies below their own scope, which others bound.

    Raises:
        NotFound: the scope is somebody else's.
        PermissionDenied: it is the caller's own, or the caller may change nothing.
    """
    require_tenant_admin(principal, scope)
    if not principal.is_admin and scope == principal.scope:
        raise PermissionDenied(
            f"What bounds {scope} is set by those above it.",
            hint="Set it for a scope below, or ask whoever runs this Trivet.",
            param="scope",
        )


def require_inference(principal: Principal) -> None:
    """Let everyone pass but auditors, who use nothing up.

    Raises:
        PermissionDenied: the key is an auditor's.
    """
    if principal.role == "auditor":
        raise _denied(principal, "a key that may use engines")


def _denied(principal: Principal, needed: str) -> PermissionDenied:
    return PermissionDenied(
        f"The key {principal.key_id} has the role {principal.role}; this takes {needed}.",
        hint="Ask whoever runs this Trivet.",
    )
