"""News reaches a real receiver at least once, whatever befalls it; some places are never sent to."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from tests.doubles.webhook_receiver import Receiver, receiving
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.config.signal_settings import SignalSettings
from trivet.domain.clock import ManualClock
from trivet.domain.scopes import Scope
from trivet.signals import Courier, Outbox
from trivet.signals.courier import LONGEST_PAUSE_S, pause_s
from trivet.storage.database import Database

ACME = Scope("acme")
SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock()


@pytest.fixture(params=["memory", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give a store of each kind."""
    if request.param == "memory":
        with Database.open(None) as opened:
            yield opened
        return
    from trivet.storage.postgres import PostgresDatabase

    with PostgresDatabase.at(request.getfixturevalue("postgres_url")) as shared:
        yield shared


@pytest.fixture
def memory() -> Iterator[Database]:
    """Give a store in memory, where the kind of store does not matter."""
    with Database.open(None) as opened:
        yield opened


def settings(url: str | None, **others: object) -> SignalSettings:
    """Return settings with a webhook."""
    return SignalSettings.model_validate({"webhook_url": url, "webhook_secret": SECRET, **others})


@contextlib.asynccontextmanager
async def courier_to(
    database: Database, clock: ManualClock, receiver: Receiver, **others: object
) -> AsyncIterator[tuple[Courier, Outbox]]:
    """Give a courier to a receiver, and its outbox."""
    outbox = Outbox(database, clock)
    courier = Courier(outbox, settings(receiver.url, **others), clock)
    try:
        yield courier, outbox
    finally:
        await courier.close()


def spend(database: Database, clock: ManualClock, tokens: int) -> None:
    """Use tokens of acme's thousand a day."""
    ledger = Ledger(database, BudgetSettings(default_daily_tokens=1000, default_monthly_tokens=None), clock)
    ledger.recover()
    ledger.record(ACME, tokens).result()


async def put(outbox: Outbox) -> None:
    """Enter one item."""
    await asyncio.wrap_future(outbox.put(ACME, "budget.threshold", payload()))


def payload() -> dict[str, object]:
    """Return what the ledger says of a threshold."""
    return {
        "scope": "acme",
        "meter": "usd_micros",
        "window": "monthly",
        "window_start": "2026-01-01T00:00:00+00:00",
        "resets_at": "2026-02-01T00:00:00+00:00",
        "threshold": 80,
        "used": 8_500_000,
        "limit": 10_000_000,
        "percent_used": 85.0,
        "at": "2026-01-02T00:00:00+00:00",
    }


async def test_a_threshold_arrives_signed_and_once(memory: Database, clock: ManualClock) -> None:
    """What the settling transaction wrote is posted, with a signature that the receiver can check."""
    spend(memory, clock, 700)
    async with receiving() as receiver, courier_to(memory, clock, receiver) as (courier, outbox):
        assert await courier.deliver_due() == 2
        assert await courier.deliver_due() == 0
        state = await courier.look()
        assert (state.delivered, state.waiting, state.dead) == (2, 0, 0)
        assert outbox.state() == state
        first, second = (json.loads(post.body) for post in receiver.received)
        assert {first["data"]["threshold"], second["data"]["threshold"]} == {50, 70}
        assert first["type"] == "budget.threshold"
        for post in receiver.received:
            sent_id, sent_s = post.headers["webhook-id"], post.headers["webhook-timestamp"]
            assert json.loads(post.body)["id"] == sent_id
            signed = f"{sent_id}.{sent_s}.".encode() + post.body
            expected = base64.b64encode(hmac.new(b"k" * 24, signed, hashlib.sha256).digest()).decode()
            assert post.headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("status", [500, 503, 404, 429, 302, 307])
async def test_a_refusal_is_tried_again_later(database: Database, clock: ManualClock, status: int) -> None:
    """Whatever is no 2xx is no delivery; redirects are not followed; the id stays the same."""
    async with receiving() as receiver, courier_to(database, clock, receiver) as (courier, outbox):
        receiver.answers = [status]
        receiver.headers = {"location": receiver.url}
        await put(outbox)
        assert await courier.deliver_due() == 1
        assert await courier.deliver_due() == 0, "not before its time"
        assert outbox.state().last_error == f"HTTP {status}."
        assert outbox.state().waiting == 1
        clock.advance(3)
        assert await courier.deliver_due() == 1
        assert outbox.state().delivered == 1
        assert len({post.headers["webhook-id"] for post in receiver.received}) == 1
        assert len(receiver.received) == 2


async def test_retry_after_is_obeyed(memory: Database, clock: ManualClock) -> None:
    """A receiver that names a pause gets it, up to the longest one."""
    async with receiving() as receiver, courier_to(memory, clock, receiver) as (courier, outbox):
        receiver.answers = [429]
        receiver.headers = {"retry-after": "60"}
        await put(outbox)
        await courier.deliver_due()
        clock.advance(59)
        assert await courier.deliver_due() == 0
        clock.advance(2)
        assert await courier.deliver_due() == 1


async def test_a_receiver_that_is_down_or_silent_is_waited_for(memory: Database, clock: ManualClock) -> None:
    """Refused connections and time-outs count as tries; when it is back, it gets everything."""
    async with receiving() as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        gone = receiver.url
    outbox = Outbox(memory, clock)
    courier = Courier(outbox, settings(gone, timeout_s=0.2), clock)
    try:
        await put(outbox)
        await courier.deliver_due()
        assert "cannot be reached" in (outbox.state().last_error or "")
        clock.advance(5)
        async with receiving(port) as back:
            back.hang = True
            await courier.deliver_due()
            assert "in time" in (outbox.state().last_error or "")
            back.hang = False
            clock.advance(10)
            assert await courier.deliver_due() == 1
            assert outbox.state().delivered == 1
    finally:
        await courier.close()


async def test_it_gives_up_and_can_be_told_to_try_again(database: Database, clock: ManualClock) -> None:
    """After its time an item is a dead letter, shown with its error; revived, it is delivered."""
    hours = {"give_up_after_hours": 3}
    async with receiving() as receiver, courier_to(database, clock, receiver, **hours) as (courier, outbox):
        receiver.answers = [500] * 500
        await put(outbox)
        tries = 0
        while outbox.state().dead == 0:
            tries += await courier.deliver_due()
            clock.advance(LONGEST_PAUSE_S)
        assert 12 <= tries <= 16, "every quarter of an hour in the end"
        (letter,) = outbox.state().dead_letters
        assert letter["error"] == "HTTP 500."
        assert letter["data"]["threshold"] == 80
        assert await courier.deliver_due() == 0
        receiver.answers = []
        assert await asyncio.wrap_future(outbox.revive()) == 1
        await courier.deliver_due()
        assert outbox.state().as_json()["delivered"] == 1
        assert receiver.received[-1].headers["webhook-id"] == letter["id"]


async def test_a_crash_between_sending_and_entering_repeats(database: Database, clock: ManualClock) -> None:
    """Claimed and not entered: nobody takes it while the lease lasts, then it is sent again."""
    async with receiving() as receiver, courier_to(database, clock, receiver) as (courier, outbox):
        await put(outbox)
        (claimed,) = await asyncio.wrap_future(outbox.claim(8, timedelta(seconds=40)))
        assert await courier.deliver_due() == 0
        clock.advance(41)
        assert await courier.deliver_due() == 1
        assert receiver.received[0].headers["webhook-id"] == claimed.delivery_id


async def test_it_survives_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    """What could not be delivered before the end is delivered after the next start."""
    path = tmp_path / "trivet.db"
    async with receiving() as receiver:
        receiver.answers = [500]
        with Database.open(path) as database:
            spend(database, clock, 500)
            async with courier_to(database, clock, receiver) as (courier, _):
                await courier.deliver_due()
        clock.advance(5)
        with Database.open(path) as database:
            async with courier_to(database, clock, receiver) as (courier, outbox):
                await courier.deliver_due()
                assert outbox.state().delivered == 1
        assert receiver.received[0].headers["webhook-id"] == receiver.received[1].headers["webhook-id"]


async def test_without_a_webhook_the_log_is_told(memory: Database, clock: ManualClock) -> None:
    """Each threshold is an event; the last one is the breach; nothing piles up for a later webhook."""
    spend(memory, clock, 1000)
    outbox = Outbox(memory, clock)
    courier = Courier(outbox, SignalSettings(), clock)
    with capture_logs() as lines:
        await courier.deliver_due()
    events = [line["event"] for line in lines]
    assert events.count("budget.threshold_passed") == 5
    assert events.count("model.budget_breached") == 1
    assert outbox.state().delivered == 6


async def test_slack_and_teams_get_their_shapes(memory: Database, clock: ManualClock) -> None:
    """A sentence in the field that each of them reads."""
    async with receiving() as receiver:
        for shape in ("slack", "teams"):
            async with courier_to(memory, clock, receiver, format=shape) as (courier, outbox):
                await put(outbox)
                await courier.deliver_due()
    slack, teams = (json.loads(post.body) for post in receiver.received)
    assert slack == {
        "text": "Trivet: the monthly budget of acme has passed 80 %: $8.50 of $10.00, 85.0 %;"
        " resets 2026-02-01T00:00:00+00:00."
    }
    assert teams["attachments"][0]["content"]["body"][0]["text"] == slack["text"]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/x",
        "http://[::ffff:169.254.169.254]/x",
        "http://[fd00:ec2::254]/x",
        "http://0.0.0.0:80/x",
    ],
)
async def test_metadata_services_are_out_of_reach(memory: Database, clock: ManualClock, url: str) -> None:
    """Link-local addresses are never connected to, however they are written."""
    outbox = Outbox(memory, clock)
    courier = Courier(outbox, settings(url, timeout_s=2), clock)
    try:
        await put(outbox)
        await courier.deliver_due()
        assert "never connected to" in (outbox.state().last_error or "")
    finally:
        await courier.close()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://x", "http://", "http://u:p@host/"])
def test_only_web_addresses_are_taken(url: str) -> None:
    """Other schemes, and user names in the URL, are refused when the configuration is read."""
    with pytest.raises(ValidationError):
        SignalSettings(webhook_url=SecretStr(url))


async def test_old_news_is_forgotten(database: Database, clock: ManualClock) -> None:
    """Delivered items leave after the retention, waiting ones never."""
    async with receiving() as receiver, courier_to(database, clock, receiver) as (courier, outbox):
        await put(outbox)
        await courier.deliver_due()
        await put(outbox)
        clock.advance(91 * 86400)
        assert await asyncio.wrap_future(outbox.prune(timedelta(days=90))) == 1
        assert (outbox.state().delivered, outbox.state().waiting) == (0, 1)


def test_pauses_grow_and_end_at_a_quarter_of_an_hour() -> None:
    """From one to two seconds at first, doubling; never shorter than asked for."""
    assert 1.0 <= pause_s(1, None) <= 2.0
    assert 8.0 <= pause_s(4, None) <= 16.0
    assert pause_s(1000, None) <= LONGEST_PAUSE_S
    assert pause_s(1, 60.0) == 60.0
    assert pause_s(1, 1e9) == LONGEST_PAUSE_S
