"""Usage records: written with each settlement, read by the reports. Never a prompt or an answer."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection

from trivet.domain.clock import Clock
from trivet.domain.outcomes import Outcome
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Tier, is_gpu
from trivet.metering import savings_records
from trivet.metering.baseline import MINIMUM_OBSERVATIONS, BaselineModel, fit_baseline
from trivet.metering.busy_minutes import BusyMinutes
from trivet.metering.device_clock import MINUTE_NS, DeviceClock
from trivet.metering.outcome_rows import insert_rows, rows_of
from trivet.metering.savings import SavingsReport, Unit, compare, tokens_saved
from trivet.metering.savings_records import Range
from trivet.metering.usage_report import ended_in, usage_rows
from trivet.metering.wall_anchor import epoch_ns_of
from trivet.storage.database import Database
from trivet.storage.writes import Writes

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UsageRecords:
    """The records of what was used. Writing is for the event loop's thread; reports block, in any other."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        device_clock: DeviceClock,
        tiers: Sequence[Tier],
        *,
        baseline_tier: str | None = None,
    ) -> None:
        """Take the store and the tiers, cheapest first.

        Args:
            database: where the records lie.
            clock: the wall time of reports and of retention.
            device_clock: its busy time is written along; its anchor dates all instants.
            tiers: in their order; their cost weights make the modelled baseline.
            baseline_tier: the tier to compare with; by default the last.
        """
        self._database = database
        self._clock = clock
        self._device_clock = device_clock
        self._busy = BusyMinutes(device_clock)
        self._tiers = {tier.name: tier for tier in tiers}
        self._heavy = baseline_tier or tiers[-1].name

    def writer(self, outcome: Outcome) -> Callable[[Writes], None]:
        """Return the write that records the outcome, to run in the transaction that settles it.

        It takes the outcome as it is now, and with it the devices' busy time until now at least.
        """
        anchor = self._device_clock.anchor
        row, attempts = rows_of(outcome, anchor)
        self._device_clock.advance()

        def write(connection: Writes) -> None:
            insert_rows(connection, row, attempts)
            self._busy.write(connection)

        return write

    def flush(self) -> Future[None]:
        """Write the devices' busy time until now without an outcome, for instance before closing."""
        self._device_clock.advance()
        return self._database.write(self._busy.write)

    def prune(self, retention_days: int) -> Future[int]:
        """Delete what ended more than so many days ago; the result counts the requests deleted."""
        before_ns = epoch_ns_of(self._clock.now() - timedelta(days=retention_days))

        def delete(connection: Writes) -> int:
            connection.execute(
                "DELETE FROM attempts WHERE request_id IN (SELECT request_id FROM outcomes WHERE at_ns < ?)",
                (before_ns,),
            )
            connection.execute("DELETE FROM device_minutes WHERE minute < ?", (before_ns // MINUTE_NS,))
            return connection.execute("DELETE FROM outcomes WHERE at_ns < ?", (before_ns,)).rowcount

        return self._database.write(delete)

    def usage(
        self, *, since: datetime, until: datetime, group_by: Sequence[str] = (), scope: Scope | None = None
    ) -> list[dict[str, Any]]:
        """Return usage of the requests that ended in [since, until). Blocks.

        Each row holds its group's values (`hour` and `day` as ISO text in UTC), then requests, ok, cut,
        failed, refused, cancelled, fallbacks, cached (answered from the cache), prompt_tokens,
        completion_tokens, weighted_tokens and usd_micros (as charged), device_s (grouped by where
        it was spent: a failed attempt's time stands at its own tier, deployment and model), latency_p50_ms
        and latency_mean_ms (of ok requests; None without any).

        Raises:
            RequestMalformed: a dimension is not one of tier, deployment, model, task_type, worker, scope,
                organisation, task, session, policy, key, hour, day, week, month.
        """
        where = ended_in(epoch_ns_of(since), epoch_ns_of(until), scope)
        return self._database.read(lambda connection: usage_rows(connection, group_by, where))

    def tier_distribution(
        self, *, since: datetime, until: datetime, scope: Scope | None = None
    ) -> dict[str, int]:
        """Return how many requests each configured tier delivered something for, in tier order. Blocks."""
        where = ended_in(epoch_ns_of(since), epoch_ns_of(until), scope)
        counts = self._database.read(lambda connection: savings_records.requests_by_tier(connection, where))
        return dict.fromkeys(self._tiers, 0) | counts

    def savings(self, *, since: datetime, until: datetime, scope: Scope | None = None) -> SavingsReport:
        """Return the device seconds saved against the baseline tier. Blocks.

        The range is rounded outward to whole minutes. A scope narrows attributed, actual, baseline, saved
        and the tokens to its requests; busy, busy_check and wall_times_devices are always the machine's,
        and the baseline is fitted to everybody's attempts.
        """
        within = Range.around(epoch_ns_of(since), epoch_ns_of(until))
        return self._database.read(lambda connection: self._savings(connection, within, scope))

    def _savings(self, connection: Connection, within: Range, scope: Scope | None) -> SavingsReport:
        everybody = ended_in(within.since_ns, within.until_ns, None)
        where = ended_in(within.since_ns, within.until_ns, scope)
        busy = savings_records.busy_by_device(connection, within)
        unit = savings_records.unit_of(busy)
        check = savings_records.union_of_attempts(connection, within)
        devices = {name for name in busy.keys() | check.keys() if unit == "engine_seconds" or is_gpu(name)}
        works = savings_records.works(connection, where)
        saved, reduction_pct = tokens_saved(
            savings_records.tokens_by_tier(connection, where), tiers=self._tiers, heavy=self._heavy
        )
        comparison = compare(
            works,
            unit=unit,
            tiers=self._tiers,
            heavy=self._heavy,
            model=self._model(connection, within, unit),
        )
        cached_requests, cached_ns = savings_records.from_cache(connection, where)
        return SavingsReport(
            since=_instant(within.since_ns),
            until=_instant(within.until_ns),
            unit=unit,
            busy_s=sum(busy.get(name, 0) for name in devices) / 1e9,
            # The comparison leaves no attempt on a device out, so both are the same seconds.
            attributed_s=comparison.actual_s,
            comparison=comparison,
            tokens_saved=saved,
            cost_reduction_pct=reduction_pct,
            busy_check_s=sum(check.get(name, 0) for name in devices) / 1e9,
            wall_times_devices_s=self._wall_ns(connection, within, devices, everybody) * len(devices) / 1e9,
            remote_requests=sum(work.requests for work in works if work.remote and work.delivered),
            cached_requests=cached_requests,
            cached_s=cached_ns / 1e9,
        )

    def _model(self, connection: Connection, within: Range, unit: Unit) -> BaselineModel | None:
        """Fit to the attempts begun in the range; if they are too few, to all until its end."""
        for since_ns in (within.since_ns, 0):
            sums = savings_records.fit_sums(connection, self._heavy, unit, since_ns, within.until_ns)
            if sums.n >= MINIMUM_OBSERVATIONS:
                return fit_baseline(sums)
        return None

    def _wall_ns(
        self, connection: Connection, within: Range, devices: set[str], where: ColumnElement[bool]
    ) -> int:
        """Return the time from the first dispatch to the last end, or to now while requests are under way."""
        span = savings_records.span_ns(connection, where, devices)
        if span is None:
            # Busy time of requests that have not ended: nothing is known but the range.
            return within.until_ns - within.since_ns
        first_ns, last_ns = span
        if self._device_clock.in_flight():
            last_ns = max(last_ns, epoch_ns_of(self._clock.now()))
        return max(0, min(last_ns, within.until_ns) - max(first_ns, within.since_ns))


def _instant(epoch_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=epoch_ns // 1000)
