"""What an operator or a tenant may ask of Trivet besides inference.

Every method takes the caller first and checks it; blocking reads run in threads.
"""

import asyncio
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from trivet.access import KeyRecord, Keyring, require_admin, require_scope
from trivet.admin.limits import parse_limits
from trivet.admin.periods import EARLIEST, parse_future, parse_instant
from trivet.budgets import Ledger
from trivet.domain.budgets import BudgetStatus
from trivet.domain.clock import Clock
from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, parse_scope
from trivet.fleet import Fleet
from trivet.metering import UsageRecords
from trivet.routing.eligibility import may_use

DEFAULT_PERIOD = timedelta(days=30)
ROLES = ("tenant", "admin")

_OPERATORS_FACTS = frozenset(
    {
        "url",
        "pid",
        "log",
        "detail",
        "in_flight",
        "swap_group",
        "waiting",
        "wait_s",
        "restarts",
        "slots",
        "predicted",
        "actual",
    }
)
_MACHINES_TOTALS = ("busy", "busy_check", "wall_times_devices")


class Office:
    """Budgets, keys, reports and the ledger's proof, behind permission checks."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        keyring: Keyring,
        records: UsageRecords,
        fleet: Fleet,
        tier_names: Collection[str],
        deployment_names: Collection[str],
        clock: Clock,
    ) -> None:
        """Take the rooms, and the names that the configuration has, whether engines run or not."""
        self._tier_names = tuple(tier_names)
        self._deployment_names = tuple(deployment_names)
        self._ledger = ledger
        self._keyring = keyring
        self._records = records
        self._fleet = fleet
        self._clock = clock

    # Budgets

    async def budget_status(self, caller: Principal, scope_text: str) -> BudgetStatus:
        """Return a scope's budgets, its own and those above it that bind it."""
        scope = parse_scope(scope_text)
        require_scope(caller, scope)
        return await asyncio.to_thread(self._ledger.status, scope)

    async def budget_rows(self, caller: Principal) -> list[dict[str, Any]]:
        """Return the current counters of all scopes that the caller may see."""
        rows = await asyncio.to_thread(self._ledger.rows, None if caller.is_admin else caller.scope)
        return [row.as_json() for row in rows]

    async def set_budget(self, caller: Principal, scope_text: str, limits: dict[str, Any]) -> BudgetStatus:
        """Set a scope's limits: `{"daily": 100000, "usd_micros.monthly": 5000000}`; null lifts a limit.

        A name is a kind of limit, of tokens, or a meter and a kind. A value is the limit, or an object with
        `limit` and `critical_allowance`. A limit below what is already used is legal: nothing new is
        admitted, nothing is clawed back.
        """
        require_admin(caller)
        scope = parse_scope(scope_text)
        for order in parse_limits(limits):
            await asyncio.wrap_future(
                self._ledger.set_limit(
                    scope,
                    order.kind,
                    order.amount,
                    author=caller.key_id,
                    meter=order.meter,
                    allowance=order.allowance,
                )
            )
        return await asyncio.to_thread(self._ledger.status, scope)

    async def clear_budget(self, caller: Principal, scope_text: str) -> None:
        """Remove a scope's own limits; an organisation falls back to the defaults."""
        require_admin(caller)
        scope = parse_scope(scope_text)
        for limit in await asyncio.to_thread(self._ledger.limits):
            if limit.scope == scope:
                await asyncio.wrap_future(
                    self._ledger.clear_limit(scope, limit.window, author=caller.key_id, meter=limit.meter)
                )

    async def set_time_zone(self, caller: Principal, scope_text: str, zone: str) -> dict[str, Any]:
        """Set where an organisation's days, weeks and months begin; it applies from the next of each."""
        require_admin(caller)
        scope = parse_scope(scope_text)
        await asyncio.wrap_future(self._ledger.set_time_zone(scope, zone, author=caller.key_id))
        return {"scope": scope, "time_zone": zone}

    async def ledger_history(
        self, caller: Principal, scope_text: str, *, limit: int, before: int | None
    ) -> list[dict[str, Any]]:
        """Return the entries of a scope and all below it, the latest first."""
        require_admin(caller)
        scope = parse_scope(scope_text)
        found = await asyncio.to_thread(lambda: self._ledger.history(scope, limit=limit, before=before))
        return [entry.as_json() for entry in found]

    # Keys

    async def create_key(
        self,
        caller: Principal,
        *,
        scope_text: str,
        role: str,
        tiers: list[str],
        models: list[str],
        label: str,
        expires_at: str | None,
    ) -> tuple[str, KeyRecord]:
        """Make an API key; its text is returned this once and never stored.

        Raises:
            RequestMalformed: the role, a tier or a model is unknown, or `expires_at` is no future time.
        """
        require_admin(caller)
        scope: Scope = parse_scope(scope_text)
        if role not in ROLES:
            raise RequestMalformed(
                f"{role[:40]!r} is not a role.", hint=f"Use {' or '.join(ROLES)}.", param="role"
            )
        _check_names(tiers, self._tier_names, "tiers")
        _check_names(models, self._deployment_names, "models")
        if not label.isprintable():
            raise RequestMalformed("label holds control characters.", hint="Send plain text.", param="label")
        expiry = self._future_instant(expires_at)
        return await asyncio.to_thread(
            lambda: self._keyring.create(
                scope,
                role=role,
                tiers=tuple(tiers),
                models=tuple(models),
                label=label[:100],
                expires_at=expiry,
            )
        )

    async def keys(self, caller: Principal) -> list[KeyRecord]:
        """Return all key records, without secrets."""
        require_admin(caller)
        return self._keyring.records()

    async def revoke_key(self, caller: Principal, key_id: str) -> None:
        """Make a key worthless at once."""
        require_admin(caller)
        await asyncio.to_thread(self._keyring.revoke, key_id)

    # Reports

    async def savings(
        self, caller: Principal, *, since: str | None, until: str | None, scope_text: str | None
    ) -> dict[str, Any]:
        """Return the savings report of a period; the whole machine's totals are null for tenants."""
        scope = self._reportable(caller, scope_text)
        start, end = self._period(since, until)
        report = await asyncio.to_thread(lambda: self._records.savings(since=start, until=end, scope=scope))
        shown = report.as_json()
        return shown if caller.is_admin else shown | dict.fromkeys(_MACHINES_TOTALS)

    async def usage(
        self,
        caller: Principal,
        *,
        since: str | None,
        until: str | None,
        group_by: list[str],
        scope_text: str | None,
    ) -> list[dict[str, Any]]:
        """Return usage rows of a period, grouped as asked."""
        scope = self._reportable(caller, scope_text)
        start, end = self._period(since, until)
        return await asyncio.to_thread(
            lambda: self._records.usage(since=start, until=end, group_by=group_by, scope=scope)
        )

    async def verify_ledger(self, caller: Principal) -> dict[str, Any]:
        """Recompute every counter and hash from the entries and report each difference."""
        require_admin(caller)
        report = await asyncio.to_thread(self._ledger.verify)
        return report.as_json()

    async def deployments(self, caller: Principal) -> list[dict[str, Any]]:
        """Return the engines' states. Tenants see those that their key may use, without operators' facts."""
        reports = self._fleet.report()
        if caller.is_admin:
            return reports
        usable = {
            offer.deployment.name for offer in self._fleet.offers() if may_use(caller, offer.deployment)
        }
        return [
            {key: value for key, value in report.items() if key not in _OPERATORS_FACTS}
            for report in reports
            if report["name"] in usable
        ]

    def _reportable(self, caller: Principal, scope_text: str | None) -> Scope | None:
        if scope_text is None:
            return None if caller.is_admin else caller.scope
        scope = parse_scope(scope_text)
        require_scope(caller, scope)
        return scope

    def _period(self, since: str | None, until: str | None) -> tuple[datetime, datetime]:
        now = self._clock.now()
        end = parse_instant(until, now, param="until") if until else now
        start = parse_instant(since, now, param="since") if since else max(EARLIEST, end - DEFAULT_PERIOD)
        if start >= end:
            raise RequestMalformed("The period is empty: `since` must lie before `until`.", param="since")
        return start, end

    def _future_instant(self, text: str | None) -> datetime | None:
        if text is None:
            return None
        instant = parse_future(text, param="expires_at")
        if instant <= self._clock.now():
            raise RequestMalformed("`expires_at` lies in the past.", param="expires_at")
        return instant


def _check_names(wanted: Collection[str], known: Collection[str], param: str) -> None:
    """Refuse a name that the configuration lacks: a key limited to it could be used for nothing."""
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise RequestMalformed(
            f"{param}: {unknown[0][:80]!a} is not configured.",
            hint=f"Use {', '.join(known)}." if known else "None is configured.",
            param=param,
        )
