"""What a caller may see and do."""

import pytest

from trivet.access import require_admin, require_scope
from trivet.domain.errors import NotFound, PermissionDenied
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope

ADMIN = Principal(key_id="a", scope=Scope("owner"), role="admin")
TENANT = Principal(key_id="t", scope=Scope("acme.search"))


def test_only_admins_administer() -> None:
    """An admin passes; a tenant is told that its role does not suffice."""
    require_admin(ADMIN)
    with pytest.raises(PermissionDenied):
        require_admin(TENANT)


@pytest.mark.parametrize("scope", ["acme.search", "acme.search.ana"])
def test_a_tenant_sees_its_own(scope: str) -> None:
    """A tenant sees its scope and what lies below it."""
    require_scope(TENANT, Scope(scope))


@pytest.mark.parametrize("scope", ["acme", "acme.searching", "acme.ads", "globex", "globex.search"])
def test_foreign_scopes_do_not_exist_for_a_tenant(scope: str) -> None:
    """What lies above or beside a tenant's scope is not found, which does not tell whether it exists."""
    require_scope(ADMIN, Scope(scope))
    with pytest.raises(NotFound):
        require_scope(TENANT, Scope(scope))
