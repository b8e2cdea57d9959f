"""Alerts that fired, and how their delivery stands."""

import asyncio
from typing import Any

from trivet.access import require_admin, require_scope
from trivet.budgets import Ledger
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, parse_scope
from trivet.signals import TEST_KIND, Outbox


class AlertOffice:
    """Thresholds and their delivery, behind permission checks."""

    def __init__(self, ledger: Ledger, outbox: Outbox) -> None:
        self._ledger = ledger
        self._outbox = outbox

    async def alerts(self, caller: Principal, scope_text: str | None, *, limit: int) -> dict[str, Any]:
        """Return what fired for a scope and below, by default for all that one may see, the latest first.

        `delivery` is the operator's: null for tenants.
        """
        within: Scope | None = None if caller.sees_all else caller.scope
        if scope_text is not None:
            within = parse_scope(scope_text)
            require_scope(caller, within)
        found = await asyncio.to_thread(lambda: self._ledger.alerts(within, limit=limit))
        state = await asyncio.to_thread(self._outbox.state) if caller.sees_all else None
        return {
            "alerts": [alert.as_json() for alert in found],
            "delivery": None if state is None else state.as_json(),
        }

    async def retry(self, caller: Principal) -> dict[str, Any]:
        """Try all dead letters anew."""
        require_admin(caller)
        return {"revived": await asyncio.wrap_future(self._outbox.revive())}

    async def test(self, caller: Principal) -> dict[str, Any]:
        """Put a test into the outbox, to see whether the webhook works."""
        require_admin(caller)
        delivery_id = await asyncio.wrap_future(
            self._outbox.put(caller.scope, TEST_KIND, {"scope": caller.scope, "by": caller.key_id})
        )
        return {"id": delivery_id}
