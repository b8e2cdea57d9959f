"""Leave to exceed a budget for a while: asked for by one, decided by another."""

import asyncio
import uuid
from dataclasses import dataclass
from datetime import timedelta

from trivet.access import Keyring, require_admin, require_tenant_admin
from trivet.admin.periods import parse_future
from trivet.budgets import Ledger, OverrideRequest
from trivet.domain.budgets import LIMIT_KINDS, METERS, Override, OverrideKind
from trivet.domain.clock import Clock
from trivet.domain.errors import NotFound, PermissionDenied, RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import contains, parse_scope

KINDS: tuple[OverrideKind, ...] = ("amount", "approval", "emergency")
DEFAULT_HOURS: dict[OverrideKind, float] = {"amount": 24.0, "approval": 24.0, "emergency": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideOrder:
    """What is asked for, as it was written."""

    kind: str
    scope: str
    meter: str = "tokens"
    window: str = "daily"
    amount: int = 0
    reason: str
    expires_at: str | None = None


class OverrideOffice:
    """Overrides, behind permission checks."""

    def __init__(self, ledger: Ledger, keyring: Keyring, clock: Clock) -> None:
        self._ledger = ledger
        self._keyring = keyring
        self._clock = clock

    async def list(self, caller: Principal, scope_text: str | None) -> list[Override]:
        """Return the overrides of a scope and below, the latest first; by default all that one may see."""
        within = caller.scope
        if scope_text is not None:
            within = parse_scope(scope_text)
            if not (caller.sees_all or contains(caller.scope, within)):
                raise NotFound(f"There is no scope {within}.", param="scope")
        found = await asyncio.to_thread(self._ledger.overrides)
        everything = caller.sees_all and scope_text is None
        return [override for override in found if everything or contains(within, override.scope)]

    async def request(self, caller: Principal, order: OverrideOrder) -> Override:
        """Ask for an override; an emergency within its ceiling is in force at once.

        Raises:
            RequestMalformed: a name is unknown, there is nothing to override, its end lies in the past or
                its ceiling is exceeded.
            NotFound, PermissionDenied: the scope is not the caller's, or its role asks for none.
        """
        scope = parse_scope(order.scope)
        require_tenant_admin(caller, scope)
        kind = next((known for known in KINDS if known == order.kind), None)
        meter = next((known for known in METERS if known == order.meter), None)
        window = next((known for known in LIMIT_KINDS if known == order.window), None)
        if kind is None:
            raise RequestMalformed(
                f"{order.kind[:40]!r} is no override.", hint=f"Use {', '.join(KINDS)}.", param="kind"
            )
        if meter is None or window is None:
            raise RequestMalformed(
                f"{order.meter[:40]!r} of {order.window[:40]!r} is no budget.",
                hint=f"Meters: {', '.join(METERS)}. Windows: {', '.join(LIMIT_KINDS)}.",
                param="meter" if meter is None else "window",
            )
        end = self._clock.now() + timedelta(hours=DEFAULT_HOURS[kind])
        if order.expires_at is not None:
            end = parse_future(order.expires_at, param="expires_at")
        asked = OverrideRequest(
            override_id=uuid.uuid4().hex,
            kind=kind,
            scope=scope,
            meter=meter,
            window=window,
            amount=order.amount,
            requester=caller.key_id,
            reason=order.reason,
            expires_at=end,
        )
        return await asyncio.wrap_future(self._ledger.request_override(asked))

    async def decide(self, caller: Principal, override_id: str, *, approve: bool) -> Override:
        """Approve or deny a request; admins do, but not their own, and not by a key that follows theirs."""
        asked = await self._require_seen(caller, override_id)
        require_admin(caller)
        if self._keyring.origin(asked.requester) == self._keyring.origin(caller.key_id):
            raise PermissionDenied("Whoever asks for an override cannot decide on it.")
        return await asyncio.wrap_future(
            self._ledger.decide_override(override_id, approve=approve, decider=caller.key_id)
        )

    async def revoke(self, caller: Principal, override_id: str) -> Override:
        """End an override before its time, or take back a request."""
        scope = (await self._require_seen(caller, override_id)).scope
        require_tenant_admin(caller, scope)
        return await asyncio.wrap_future(self._ledger.revoke_override(override_id, author=caller.key_id))

    async def _require_seen(self, caller: Principal, override_id: str) -> Override:
        found = await asyncio.to_thread(self._ledger.overrides)
        for override in found:
            if override.override_id == override_id and (
                caller.sees_all or contains(caller.scope, override.scope)
            ):
                return override
        raise NotFound(f"There is no override {override_id[:80]}.", param="override_id")
