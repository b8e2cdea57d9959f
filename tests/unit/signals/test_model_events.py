"""What was chosen and what was slow: gathered, told once for each organisation, by the way of all news."""

import json
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from structlog.testing import capture_logs

from tests.doubles.webhook_receiver import receiving
from tests.unit.metering.makers import HEAVY, deployment, outcome
from trivet.config.signal_settings import SignalSettings
from trivet.domain.clock import ManualClock
from trivet.domain.outcomes import Attempt, Outcome
from trivet.domain.scopes import Scope
from trivet.signals import Courier, ModelEvents, Outbox
from trivet.signals.model_events import GATHERED_MAX, TOLD_SINGLY_MAX
from trivet.storage.database import Database
from trivet.storage.schema import outbox

MS = 1_000_000
NEAR, FAR = deployment("near"), deployment("far", HEAVY)
BOTH = ("model.selection", "model.latency_warning")


def answered(name: str, *, scope: str = "acme.search", first_ms: int = 10, slow: bool = False) -> Outcome:
    """Return a request that one of two deployments answered, with its first content after so long."""
    chosen = FAR if slow else NEAR
    attempt = Attempt(
        attempt_id=f"{name}-1", deployment=chosen, dispatched_ns=0, first_token_ns=first_ms * MS
    )
    return outcome(name, [attempt], started_ns=0, ended_ns=(first_ms + 5) * MS, scope=scope)


def settings(*events: str, **others: Any) -> SignalSettings:
    """Return settings that want these events."""
    return SignalSettings.model_validate({"events": events, "latency_warning_ms": 1_000, **others})


def items(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    """Return what stands in the outbox: organisation, kind, data."""
    columns = (outbox.c.organisation, outbox.c.kind, outbox.c.payload)
    rows = database.read(lambda c: c.execute(select(*columns).order_by(outbox.c.seq)).fetchall())
    return [(row.organisation, row.kind, json.loads(row.payload)) for row in rows]


async def test_one_item_for_each_organisation_and_kind() -> None:
    """Counts are of all requests, and each is told with its reasons; nothing is told twice."""
    clock = ManualClock()
    with Database.open(None) as database:
        events = ModelEvents(Outbox(database, clock), settings(*BOTH), clock)
        for number in range(3):
            events.note(answered(f"r{number}"))
        events.note(answered("slow", first_ms=2_500, slow=True))
        events.note(answered("other", scope="globex"))
        assert await events.flush() == 3
        assert await events.flush() == 0
        (acme, slow, globex) = items(database)
    assert [(owner, kind) for owner, kind, _ in (acme, slow, globex)] == [
        ("acme", "model.selection"),
        ("acme", "model.latency_warning"),
        ("globex", "model.selection"),
    ]
    assert acme[2]["by_tier"] == {"light": 3, "heavy": 1}
    assert acme[2]["latest"][-1]["request_id"] == "slow"
    assert acme[2]["latest"][-1]["reasons"] == ["complexity"]
    assert (slow[2]["requests"], slow[2]["slowest_ms"], slow[2]["by_deployment"]) == (1, 2500, {"far": 1})


async def test_only_what_is_wanted() -> None:
    """Kinds that nobody asked for are not told; nor is a refusal slow."""
    clock = ManualClock()
    with Database.open(None) as database:
        events = ModelEvents(Outbox(database, clock), settings("model.latency_warning"), clock)
        events.note(answered("fast"))
        events.note(outcome("refused", [], started_ns=0, ended_ns=9_000 * MS, status="refused"))
        assert await events.flush() == 0
        assert items(database) == []


async def test_a_flood_is_bounded() -> None:
    """Of too many the latest are looked at, few are told singly, and what was left out is said."""
    clock = ManualClock()
    with Database.open(None) as database:
        events = ModelEvents(Outbox(database, clock), settings("model.selection"), clock)
        for number in range(GATHERED_MAX + 7):
            events.note(answered(f"r{number}"))
        await events.flush()
        ((_, _, data),) = items(database)
    assert (data["requests"], data["left_out"], len(data["latest"])) == (GATHERED_MAX, 7, TOLD_SINGLY_MAX)
    assert data["latest"][-1]["request_id"] == f"r{GATHERED_MAX + 6}"


async def test_they_arrive_and_are_soon_forgotten() -> None:
    """The log gets the counts, a chat a sentence; a day later a delivered one is gone, an alert is not."""
    clock = ManualClock()
    with Database.open(None) as database:
        news = Outbox(database, clock)
        async with receiving() as receiver:
            told = settings(*BOTH, webhook_url=receiver.url, format="slack")
            async with ModelEvents(news, told, clock).flushing() as events:
                events.note(answered("slow", first_ms=2_500))
            news.put(Scope("acme"), "signals.test", {}).result()
            courier = Courier(news, told, clock)
            with capture_logs() as logs:
                assert await courier.deliver_due() == 3
            await courier.close()
            texts = [json.loads(each.body)["text"] for each in receiver.received]
        clock.advance(timedelta(days=2).total_seconds())
        assert news.prune(timedelta(days=90)).result() == 2
        assert [kind for _, kind, _ in items(database)] == ["signals.test"]
    assert any("chosen for 1 requests of acme: light 1" in text for text in texts)
    assert any("waited longer than 1,000 ms for near" in text for text in texts)
    logged = {entry["event"]: entry for entry in logs}
    assert (logged["model.selection"]["requests"], logged["model.latency_warning"]["slowest_ms"]) == (1, 2500)
    assert "latest" not in logged["model.selection"]
