"""Records written as settlements write them, and the reports on them, with figures worked out by hand."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

import pytest

from tests.unit.metering.makers import HEAVY, LIGHT, STANDARD, TIERS, deployment, outcome
from trivet.domain.clock import ManualClock
from trivet.domain.errors import RequestMalformed
from trivet.domain.outcomes import Attempt, Outcome, OutcomeStatus, Usage
from trivet.domain.requests import Hints
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment
from trivet.metering import DeviceClock, UsageRecords
from trivet.storage.database import Database


class Period(TypedDict):
    """The range of a report."""

    since: datetime
    until: datetime


START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
EVERY_ATTEMPT = """
    SELECT engine_prompt_tokens, engine_completion_tokens, status
      FROM outcomes
     WHERE dispatched_ns IS NOT NULL
    UNION ALL
    SELECT prompt_tokens, completion_tokens, status FROM attempts
"""
AMONG_THE_ATTEMPTS = """
    INSERT INTO attempts (request_id, attempt_id, tier, deployment, devices, model, gpu, dispatched_ns,
                          ended_ns, device_ns, prompt_tokens, completion_tokens, status, error_code)
    SELECT request_id, 'served', tier, deployment, devices, model, gpu, dispatched_ns,
           served_ns, device_ns, engine_prompt_tokens, engine_completion_tokens, status, error_code
      FROM outcomes
     WHERE dispatched_ns IS NOT NULL
"""
NOT_IN_ITS_ROW = """
    UPDATE outcomes
       SET devices = NULL, gpu = NULL, dispatched_ns = NULL, served_ns = NULL, device_ns = NULL,
           engine_prompt_tokens = NULL, engine_completion_tokens = NULL
"""
DAY: Period = {"since": START - timedelta(days=1), "until": START + timedelta(days=1)}
SMALL = deployment("small", LIGHT, slots=2)
BIG = deployment("big", HEAVY)
CLOUD = deployment("cloud", STANDARD, devices=())


class House:
    """A store, a clock that is moved by hand, and requests that run one after another."""

    def __init__(self, database: Database, clock: ManualClock | None = None) -> None:
        self.database = database
        self.clock = clock or ManualClock(START)
        self.device_clock = DeviceClock(self.clock)
        self.records = UsageRecords(database, self.clock, self.device_clock, TIERS)

    def attempt(
        self, attempt_id: str, engine: Deployment, seconds: float, error: str | None = None
    ) -> Attempt:
        """Run an attempt for so long."""
        attempt = Attempt(attempt_id=attempt_id, deployment=engine, dispatched_ns=self.clock.monotonic_ns())
        self.device_clock.start(attempt_id, engine)
        self.clock.advance(seconds)
        attempt.ended_ns = self.clock.monotonic_ns()
        attempt.device_ns = self.device_clock.end(attempt_id)
        attempt.error_code = error
        return attempt

    def request(
        self,
        request_id: str,
        *parts: tuple[Deployment, float] | tuple[Deployment, float, str],
        tokens: tuple[int, int] | None = None,
        source: str = "engine",
        status: OutcomeStatus = "ok",
        scope: str = "acme.search",
        hints: Hints | None = None,
        error_code: str | None = None,
    ) -> Outcome:
        """Run a request's attempts one after another."""
        started_ns = self.clock.monotonic_ns()
        attempts = [self.attempt(f"{request_id}-{index}", *part) for index, part in enumerate(parts)]
        usage = None
        if tokens is not None:
            usage = Usage(
                *tokens, "engine" if source == "engine" else "counted" if source == "counted" else "ceiling"
            )
        return outcome(
            request_id,
            attempts,
            started_ns=started_ns,
            ended_ns=self.clock.monotonic_ns(),
            status=status,
            usage=usage,
            scope=scope,
            hints=hints,
            error_code=error_code,
        )

    def record(self, finished: Outcome) -> None:
        """Write an outcome as its settlement does, and wait for it."""
        self.database.write(self.records.writer(finished)).result()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Read with plain SQL."""
        return self.database.read(lambda c: [tuple(row) for row in c.exec_driver_sql(statement)])


@pytest.fixture(params=["sqlite", "postgres"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """Give a house on a fresh store of each kind."""
    with (
        request.getfixturevalue("shared_store").emptied()
        if request.param == "postgres"
        else Database.open(tmp_path / "trivet.db")
    ) as database:
        yield House(database)


def busy_day(house: House) -> None:
    """Run a light request of 2 s, one that falls from light (1 s) to heavy (3 s), a refusal, a cloud one."""
    house.record(
        house.request("r1", (SMALL, 2.0), tokens=(100, 20), hints=Hints(task_type="fix_bug", worker="w1"))
    )
    house.record(house.request("r2", (SMALL, 1.0, "upstream_busy"), (BIG, 3.0), tokens=(200, 30)))
    house.record(house.request("r3", status="refused", scope="umbrella", error_code="budget_exhausted"))
    house.record(house.request("r4", (CLOUD, 5.0), tokens=(10, 10), scope="acme"))


def test_every_attempt_is_recorded_with_its_instants_as_wall_time(house: House) -> None:
    """A request with who served it, and the attempt that failed, stand in the store in epoch nanoseconds."""
    busy_day(house)
    start_ns = int(START.timestamp()) * 10**9
    second = 10**9
    assert house.rows(
        "SELECT attempt_id, tier, deployment, model, devices, gpu, dispatched_ns, ended_ns, device_ns,"
        " prompt_tokens, completion_tokens, status, error_code FROM attempts"
        " WHERE request_id = 'r2' ORDER BY attempt_id"
    ) == [
        (
            *("r2-0", "light", "small", "small-model", "host", 0),
            *(start_ns + 2 * second, start_ns + 3 * second, second, None, None, "failed", "upstream_busy"),
        ),
    ]
    assert house.rows(
        "SELECT request_id, tier, deployment, model, devices, gpu, dispatched_ns, served_ns, device_ns,"
        " engine_prompt_tokens, engine_completion_tokens, status FROM outcomes"
        " WHERE request_id IN ('r2', 'r3') ORDER BY 1"
    ) == [
        (
            *("r2", "heavy", "big", "big-model", "host", 0),
            *(start_ns + 3 * second, start_ns + 6 * second, 3 * second, 200, 30, "ok"),
        ),
        ("r3", "light", "light", "light-model", *(None,) * 7, "refused"),
    ]
    assert house.rows(
        "SELECT request_id, at_ns, organisation, scope, key_id, task_type, policy, tier, status, attempts,"
        " fallbacks, prompt_tokens, latency_ms FROM outcomes ORDER BY 1"
    ) == [
        (
            *("r1", start_ns + 2 * second, "acme", "acme.search", "key-1", "fix_bug", "normal", "light"),
            *("ok", 1, 0, 100, 2000.0),
        ),
        (
            *("r2", start_ns + 6 * second, "acme", "acme.search", "key-1", None, "normal", "heavy"),
            *("ok", 2, 1, 200, 4000.0),
        ),
        (
            *("r3", start_ns + 6 * second, "umbrella", "umbrella", "key-1", None, "normal", "light"),
            *("refused", 0, 0, 0, 0.0),
        ),
        (
            *("r4", start_ns + 11 * second, "acme", "acme", "key-1", None, "normal", "standard"),
            *("ok", 1, 0, 10, 5000.0),
        ),
    ]


@pytest.mark.parametrize(
    ("source", "status", "error", "expected"),
    [
        ("engine", "ok", None, (50, 7, "ok")),
        ("counted", "cut", "upstream_incomplete", (None, 7, "cut")),
        ("counted", "cancelled", "cancelled", (None, 7, "cancelled")),
        ("ceiling", "cancelled", "cancelled", (None, None, "cancelled")),
        ("ceiling", "cancelled", "upstream_timeout", (None, None, "failed")),
    ],
)
def test_a_ceiling_is_charged_but_never_taken_for_what_was_produced(
    house: House,
    source: str,
    status: OutcomeStatus,
    error: str | None,
    expected: tuple[int | None, int | None, str],
) -> None:
    """An attempt's tokens are those that the engine told or that were counted; the rest is unknown."""
    part = (SMALL, 1.0) if error is None else (SMALL, 1.0, error)
    house.record(house.request("r1", part, tokens=(50, 7), source=source, status=status))
    assert house.rows(EVERY_ATTEMPT) == [expected]
    assert house.rows("SELECT prompt_tokens, completion_tokens FROM outcomes") == [(50, 7)]


def test_attempts_of_older_stores_count_the_same(house: House) -> None:
    """Until 0013 who served a request stood among the attempts: every report tells the same of it."""
    busy_day(house)
    for number in range(40):
        house.record(house.request(f"h{number}", (BIG, 1.0 + number % 7), tokens=(100 + number, 10 + number)))

    def told() -> tuple[Any, ...]:
        usage = house.records.usage(**DAY, group_by=["tier", "deployment", "scope"])
        return usage, house.records.savings(**DAY), house.records.tier_distribution(**DAY)

    before = told()
    house.database.write(lambda writes: writes.execute(AMONG_THE_ATTEMPTS).rowcount).result()
    house.database.write(lambda writes: writes.execute(NOT_IN_ITS_ROW).rowcount).result()
    assert house.rows("SELECT count(*) FROM attempts") == [(44,)]
    assert told() == before


def test_savings_on_a_cpu_by_hand(house: House) -> None:
    """Without enough of HEAVY's attempts the baseline is mixed: its own seconds, and light's times ten."""
    busy_day(house)
    assert house.records.savings(**DAY).as_json() == {
        "since": DAY["since"].isoformat(),
        "until": DAY["until"].isoformat(),
        "unit": "engine_seconds",
        "busy": 6.0,
        "attributed": 6.0,
        "actual": 6.0,
        "baseline": 23.0,
        "saved": 17.0,
        "basis": "mixed",
        "measured_share": round(3 / 23, 6),
        "interval_90": None,
        "tokens_saved": 122,
        "cost_reduction_pct": 33.0,
        "gpu_hours_saved": 0.0,
        "engine_hours_saved": round(17 / 3600, 6),
        "busy_check": 6.0,
        "wall_times_devices": 6.0,
        "requests": 2,
        "cached_requests": 0,
        "cached": 0.0,
    }


def test_savings_on_a_gpu_are_measured_once_heavy_has_run(house: House) -> None:
    """Nine HEAVY attempts fit the model; GPU time alone counts, and what the CPU served saved all of its."""
    gpu_light = deployment("gpu-light", LIGHT, devices=("GPU-0",))
    gpu_heavy = deployment("gpu-heavy", HEAVY, devices=("GPU-0", "GPU-1"))
    heavy_s = 0.0
    for number, (prompt, completion) in enumerate((p, c) for p in (0, 100, 300) for c in (10, 20, 80)):
        seconds = 0.5 + 0.005 * prompt + 0.05 * completion
        heavy_s += 2 * seconds
        house.record(
            house.request(f"h{number}", (gpu_heavy, seconds), tokens=(prompt, completion), scope="umbrella")
        )
    house.record(house.request("l1", (gpu_light, 0.5), tokens=(100, 10)))
    house.record(house.request("l2", (SMALL, 4.0), tokens=(100, 10)))
    wall_s = heavy_s / 2 + 0.5
    everybody = house.records.savings(**DAY).as_json()
    assert {
        name: everybody[name] for name in ("unit", "basis", "measured_share", "requests", "gpu_hours_saved")
    } == {
        "unit": "gpu_seconds",
        "basis": "measured",
        "measured_share": 1.0,
        "requests": 11,
        "gpu_hours_saved": round(5.5 / 3600, 6),
    }
    figures = ("busy", "busy_check", "attributed", "actual", "baseline", "saved", "wall_times_devices")
    assert [everybody[name] for name in figures] == pytest.approx(
        [heavy_s + 0.5, heavy_s + 0.5, heavy_s + 0.5, heavy_s + 0.5, heavy_s + 6.0, 5.5, 2 * wall_s], abs=1e-5
    )
    assert everybody["interval_90"] == pytest.approx([5.5, 5.5], abs=1e-3)
    tenant = house.records.savings(**DAY, scope=Scope("acme")).as_json()
    assert [tenant[name] for name in ("busy", "attributed", "actual", "baseline", "saved")] == pytest.approx(
        [heavy_s + 0.5, 0.5, 0.5, 6.0, 5.5], abs=1e-5
    )


def test_a_range_is_rounded_to_minutes_and_cuts_what_lies_outside(house: House) -> None:
    """Busy time, its check and the wall time are cut to the range; the report says which range it took."""
    house.clock.advance(30)
    house.record(house.request("r1", (SMALL, 60.0), tokens=(100, 20)))
    report = house.records.savings(since=START + timedelta(seconds=61), until=START + timedelta(seconds=100))
    assert (report.since, report.until) == (START + timedelta(minutes=1), START + timedelta(minutes=2))
    assert (report.busy_s, report.busy_check_s, report.wall_times_devices_s) == (30.0, 30.0, 30.0)


def test_an_empty_range_reports_nothing(house: House) -> None:
    """Without any request every figure is zero and nothing is called measured."""
    report = house.records.savings(**DAY).as_json()
    assert (report["saved"], report["requests"], report["basis"], report["busy"]) == (0.0, 0, "modelled", 0.0)
    assert [row["requests"] for row in house.records.usage(**DAY)] == [0]
    assert house.records.usage(**DAY, group_by=["tier"]) == []


def test_usage_by_tier_puts_device_time_where_it_was_spent(house: House) -> None:
    """A failed attempt's second stands at the tier that failed; the request at the tier that served it."""
    busy_day(house)
    columns = (
        "tier",
        "requests",
        "ok",
        "refused",
        "fallbacks",
        "prompt_tokens",
        "completion_tokens",
        "device_s",
    )
    rows = house.records.usage(**DAY, group_by=["tier"])
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("heavy", 1, 1, 0, 1, 200, 30, 3.0),
        ("light", 2, 1, 1, 0, 100, 20, 3.0),
        ("standard", 1, 1, 0, 0, 10, 10, 0.0),
    ]
    assert [(row["cut"], row["failed"], row["cancelled"]) for row in rows] == [(0, 0, 0)] * 3
    assert [row["latency_mean_ms"] for row in rows] == [4000.0, 2000.0, 5000.0]


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        (["task_type"], [(None, 3), ("fix_bug", 1)]),
        (["worker"], [(None, 3), ("w1", 1)]),
        (["scope"], [("acme", 1), ("acme.search", 2), ("umbrella", 1)]),
        (["model"], [("big-model", 1), ("cloud-model", 1), ("light-model", 1), ("small-model", 1)]),
        (["deployment"], [("big", 1), ("cloud", 1), ("light", 1), ("small", 1)]),
        (["policy", "key"], [("normal", "key-1", 4)]),
        (["organisation"], [("acme", 3), ("umbrella", 1)]),
        (["week"], [("2025-12-29", 4)]),
        (["month"], [("2026-01", 4)]),
        (["hour"], [("2026-01-01T12:00:00+00:00", 4)]),
        (
            ["day", "tier"],
            [("2026-01-01", "heavy", 1), ("2026-01-01", "light", 2), ("2026-01-01", "standard", 1)],
        ),
    ],
)
def test_usage_groups_by_every_dimension(
    house: House, group_by: list[str], expected: list[tuple[str | int | None, ...]]
) -> None:
    """Each dimension, alone or with others, gives one row per value that occurs."""
    busy_day(house)
    rows = house.records.usage(**DAY, group_by=group_by)
    assert [(*(row[name] for name in group_by), row["requests"]) for row in rows] == expected
    assert sum(row["device_s"] for row in rows) == pytest.approx(6.0)


def test_teams_and_users_are_levels_of_the_scope(house: House) -> None:
    """Whatever lies below belongs to its team and its user; what lies above them stands for itself."""
    for number, scope in enumerate(
        ("acme", "acme.search", "acme.search.ana", "acme.search.ana.key-1.x", "a.b.c")
    ):
        house.record(house.request(f"r{number}", (SMALL, 1.0), tokens=(1, 1), scope=scope))

    def counted(level: str) -> dict[str, int]:
        return {row[level]: row["requests"] for row in house.records.usage(**DAY, group_by=[level])}

    assert counted("team") == {"acme": 1, "acme.search": 3, "a.b": 1}
    assert counted("user") == {"acme": 1, "acme.search": 1, "acme.search.ana": 2, "a.b.c": 1}


@pytest.mark.parametrize(
    ("scope", "requests"), [("acme", 3), ("acme.search", 2), ("acm", 0), ("umbrella", 1)]
)
def test_usage_of_a_scope_holds_all_below_it(house: House, scope: str, requests: int) -> None:
    """A scope's usage is its own and that of the scopes under it, and no namesake's."""
    busy_day(house)
    assert house.records.usage(**DAY, scope=Scope(scope))[0]["requests"] == requests


@pytest.mark.parametrize(
    ("latencies", "median"), [((5,), 5), ((1, 9), 5), ((9, 1, 2), 2), ((1, 2, 3, 10), 2.5)]
)
def test_the_median_latency_is_the_middle_one(
    house: House, latencies: tuple[int, ...], median: float
) -> None:
    """Of an even number of requests it is the mean of the middle two."""
    for number, seconds in enumerate(latencies):
        house.record(house.request(f"r{number}", (SMALL, float(seconds)), tokens=(1, 1)))
    assert house.records.usage(**DAY)[0]["latency_p50_ms"] == median * 1000


def test_an_unknown_dimension_is_refused(house: House) -> None:
    """The refusal names what can be grouped by."""
    with pytest.raises(RequestMalformed, match="Group by any of tier"):
        house.records.usage(**DAY, group_by=["colour"])


def test_the_tier_distribution_counts_what_was_delivered(house: House) -> None:
    """Every configured tier is there, in order; refused requests are not."""
    busy_day(house)
    assert list(house.records.tier_distribution(**DAY).items()) == [
        ("light", 1),
        ("standard", 1),
        ("heavy", 1),
    ]


def test_busy_time_survives_a_settlement_that_lost_its_outcome(house: House) -> None:
    """What a dropped write should have carried comes with the next one, and is never doubled."""
    house.records.writer(house.request("lost", (SMALL, 90.0), tokens=(1, 1)))
    late = house.records.writer(house.request("late", (SMALL, 1.0), tokens=(1, 1)))
    house.record(house.request("r1", (SMALL, 2.0), tokens=(1, 1)))
    house.database.write(late).result()
    house.records.flush().result()
    assert house.rows("SELECT SUM(busy_ns) FROM device_minutes") == [(93 * 10**9,)]


def test_minutes_that_are_over_are_forgotten_once_they_are_written(house: House) -> None:
    """However long it runs, the clock keeps no more than the minute under way, and the store has them all."""
    for name in ("r1", "r2"):
        house.record(house.request(name, (SMALL, 150.0), tokens=(1, 1)))
        house.record(house.request(f"{name} again", (SMALL, 1.0), tokens=(1, 1)))
    assert house.rows("SELECT SUM(busy_ns), MAX(busy_ns) FROM device_minutes") == [(302 * 10**9, 60 * 10**9)]
    assert [len(minutes) for _, minutes in house.device_clock.minutes()] == [1]


def test_a_restart_within_a_minute_adds_to_it(house: House) -> None:
    """A second process on the same store goes on counting in the same minute."""
    house.record(house.request("r1", (SMALL, 2.0), tokens=(1, 1)))
    again = House(house.database, house.clock)
    again.record(again.request("r2", (SMALL, 3.0), tokens=(1, 1)))
    assert house.rows("SELECT device, busy_ns FROM device_minutes") == [("host", 5 * 10**9)]
    report = again.records.savings(**DAY)
    assert (report.busy_s, report.busy_check_s, report.attributed_s) == (5.0, 5.0, 5.0)


def test_requests_under_way_extend_the_wall_time(house: House) -> None:
    """Busy time of a request that has not ended is within wall time, because that runs until now."""
    house.device_clock.start("open", BIG)
    house.record(house.request("r1", (SMALL, 2.0), tokens=(1, 1)))
    house.clock.advance(4)
    house.records.flush().result()
    report = house.records.savings(**DAY)
    assert (report.busy_s, report.attributed_s, report.wall_times_devices_s) == (6.0, 1.0, 6.0)


def test_a_request_id_that_comes_twice_loses_no_device_time(house: House) -> None:
    """The first row stays, and the time of the others' attempts is added to it, whichever have any."""
    parts: list[list[Any]] = [[], [(SMALL, 2.0)], [(SMALL, 1.0)], []]
    for number, part in enumerate(parts):
        request = house.request(f"r{number}", *part, tokens=(1, 1), status="ok" if part else "refused")
        request.request_id = "same"
        house.record(request)
    assert house.rows("SELECT status, devices, device_ns FROM outcomes") == [("refused", "host", 3 * 10**9)]
    assert house.records.savings(**DAY).attributed_s == 3.0


def test_old_records_are_pruned(house: House) -> None:
    """What ended before the retention is deleted, with its attempts and its minutes."""
    house.record(house.request("old", (SMALL, 1.0, "upstream_busy"), (SMALL, 1.0), tokens=(1, 1)))
    house.clock.advance(40 * 86400)
    house.record(house.request("new", (SMALL, 0.5, "upstream_busy"), (SMALL, 0.5), tokens=(1, 1)))
    assert house.records.prune(30).result() == 1
    assert house.rows("SELECT request_id FROM outcomes UNION ALL SELECT request_id FROM attempts") == [
        ("new",),
        ("new",),
    ]
    assert house.rows("SELECT SUM(busy_ns) FROM device_minutes") == [(10**9,)]
