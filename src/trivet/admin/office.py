"""What an operator or a tenant may ask of Trivet besides inference.

Every method takes the caller first and checks it; blocking reads run in threads.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from trivet.access import (
    require_above,
    require_admin,
    require_reader_of_all,
    require_scope,
    require_tenant_admin,
)
from trivet.admin.limits import LimitOrder, parse_limits
from trivet.admin.periods import EARLIEST, parse_instant
from trivet.budgets import Ledger
from trivet.domain.budgets import BudgetStatus
from trivet.domain.clock import Clock
from trivet.domain.errors import PermissionDenied, RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, parse_scope
from trivet.fleet import Fleet
from trivet.metering import UsageRecords
from trivet.routing.eligibility import may_use

DEFAULT_PERIOD = timedelta(days=30)

_OPERATORS_FACTS = frozenset(
    {
        "url",
        "pid",
        "log",
        "detail",
        "in_flight",
        "admission",
        "breaker",
        "swap_group",
        "waiting",
        "wait_s",
        "restarts",
        "slots",
        "predicted",
        "actual",
    }
)
DeploymentReport = Callable[[str], dict[str, Any] | None]
"""Tells how something that belongs to a deployment stands, by name; None before its first request."""
_MACHINES_TOTALS = ("busy", "busy_check", "wall_times_devices")


class Office:
    """Budgets, reports and the ledger's proof, behind permission checks."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        records: UsageRecords,
        fleet: Fleet,
        clock: Clock,
        admission: DeploymentReport,
        breaker: DeploymentReport,
    ) -> None:
        """Take the rooms, and what tells of a deployment's gate and of its circuit breaker."""
        self._ledger = ledger
        self._records = records
        self._fleet = fleet
        self._clock = clock
        self._admission = admission
        self._breaker = breaker

    # Budgets

    async def budget_status(self, caller: Principal, scope_text: str) -> BudgetStatus:
        """Return a scope's budgets, its own and those above it that bind it."""
        scope = parse_scope(scope_text)
        require_scope(caller, scope)
        return await asyncio.to_thread(self._ledger.status, scope)

    async def budget_rows(self, caller: Principal) -> list[dict[str, Any]]:
        """Return the current counters of all scopes that the caller may see."""
        below = None if caller.sees_all else caller.scope
        return await asyncio.to_thread(lambda: [row.as_json() for row in self._ledger.rows(below)])

    async def limits(self, caller: Principal, scope_text: str) -> dict[str, Any]:
        """Return a scope's own limits, as they were set, with who set each and when."""
        scope = parse_scope(scope_text)
        require_scope(caller, scope)
        found = await asyncio.to_thread(self._ledger.limits)
        return {"scope": scope, "limits": [limit.as_json() for limit in found if limit.scope == scope]}

    async def set_budget(self, caller: Principal, scope_text: str, limits: dict[str, Any]) -> BudgetStatus:
        """Set a scope's limits: `{"daily": 100000, "usd_micros.monthly": 5000000}`; null lifts a limit.

        A name is a kind of limit, of tokens, or a meter and a kind. A value is the limit, or an object with
        `limit` and `critical_allowance`. A limit below what is already used is legal: nothing new is
        admitted, nothing is clawed back. A tenant admin sets limits below its own scope, and none above what
        it got itself.
        """
        scope = parse_scope(scope_text)
        require_above(caller, scope)
        orders = parse_limits(limits)
        if not caller.is_admin:
            await self._check_within(caller, orders)
        for order in orders:
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

    async def _check_within(self, caller: Principal, orders: list[LimitOrder]) -> None:
        """Refuse limits above those of the caller's own scope. A courtesy: the strictest wins in any case."""
        status = await asyncio.to_thread(self._ledger.status, caller.scope)
        for order in orders:
            got = [r.limit for r in status.rows if (r.meter, r.window) == (order.meter, order.kind)]
            got += [c.limit for c in status.caps if (c.meter, c.window) == (order.meter, order.kind)]
            most = min((limit for limit in got if limit is not None), default=None)
            if most is not None and (order.amount or 0) + order.allowance > most:
                raise PermissionDenied(
                    f"{caller.scope} itself may use {most:,} {order.meter} ({order.kind}).",
                    hint="Give at most that to those below.",
                    param=order.kind,
                )

    async def clear_budget(self, caller: Principal, scope_text: str) -> None:
        """Remove a scope's own limits; an organisation falls back to the defaults."""
        scope = parse_scope(scope_text)
        require_above(caller, scope)
        for limit in await asyncio.to_thread(self._ledger.limits):
            if limit.scope == scope:
                await asyncio.wrap_future(
                    self._ledger.clear_limit(scope, limit.window, author=caller.key_id, meter=limit.meter)
                )

    async def set_time_zone(self, caller: Principal, scope_text: str, zone: str) -> dict[str, Any]:
        """Set where an organisation's days, weeks and months begin; it applies from the next of each."""
        scope = parse_scope(scope_text)
        require_scope(caller, scope)
        require_admin(caller)
        await asyncio.wrap_future(self._ledger.set_time_zone(scope, zone, author=caller.key_id))
        return {"scope": scope, "time_zone": zone}

    async def ledger_history(
        self, caller: Principal, scope_text: str, *, limit: int, before: int | None
    ) -> list[dict[str, Any]]:
        """Return the entries of a scope and all below it, the latest first."""
        scope = parse_scope(scope_text)
        if not caller.sees_all:
            require_tenant_admin(caller, scope)
        found = await asyncio.to_thread(lambda: self._ledger.history(scope, limit=limit, before=before))
        return [entry.as_json() for entry in found]

    # Reports

    async def savings(
        self, caller: Principal, *, since: str | None, until: str | None, scope_text: str | None
    ) -> dict[str, Any]:
        """Return the savings report of a period; the whole machine's totals are null for tenants."""
        scope = self._reportable(caller, scope_text)
        start, end = self._period(since, until)
        report = await asyncio.to_thread(lambda: self._records.savings(since=start, until=end, scope=scope))
        shown = report.as_json()
        return shown if caller.sees_all else shown | dict.fromkeys(_MACHINES_TOTALS)

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
        require_reader_of_all(caller)
        report = await asyncio.to_thread(self._ledger.verify)
        return report.as_json()

    async def deployments(self, caller: Principal) -> list[dict[str, Any]]:
        """Return the engines' states. Tenants see those that their key may use, without operators' facts."""
        reports = [
            report | {"admission": self._admission(report["name"]), "breaker": self._breaker(report["name"])}
            for report in self._fleet.report()
        ]
        if caller.sees_all:
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
            return None if caller.sees_all else caller.scope
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
