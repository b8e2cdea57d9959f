"""Several replicas on one PostgreSQL store, and stores that fail under them."""

import asyncio
import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from tests.doubles.shared_store import SharedStore
from tests.doubles.tcp_proxy import TcpProxy
from tests.unit.budgets.stores import PATIENCE_S, close_ledgers, ledger_on
from trivet.budgets import Ledger
from trivet.budgets.admission import grant
from trivet.budgets.postgres_functions import install, prefix
from trivet.budgets.rows import Balance, RowKey
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import NEVER_S, Amounts, Hold
from trivet.domain.clock import SystemClock
from trivet.domain.errors import (
    BudgetContended,
    BudgetError,
    BudgetExhausted,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.storage.postgres import PostgresDatabase

ACME = Scope("acme")
LIMIT = 60_000
HOLD = 500
SETTINGS = BudgetSettings(default_daily_tokens=LIMIT)

Opener = Callable[..., Ledger]


@pytest.fixture
def store(shared_store: SharedStore) -> str:
    """Give the URL of an empty store."""
    shared_store.emptied().close()
    return shared_store.url


@pytest.fixture
def replica(store: str) -> Iterator[Opener]:
    """Give an opener of replicas, each with connections of its own; they close in the end."""
    opened: list[PostgresDatabase] = []

    def open_replica(url: str = store, settings: BudgetSettings = SETTINGS, **options: Any) -> Ledger:
        opened.append(PostgresDatabase.at(url))
        ledger = ledger_on(opened[-1], settings, SystemClock(), **options)
        ledger.recover()
        return ledger

    yield open_replica
    for database in opened:
        close_ledgers(database)
        database.close()


@pytest.fixture(scope="module")
def functions(shared_store: SharedStore) -> Iterator[PostgresDatabase]:
    """Give the store with its functions, open for all examples."""
    with PostgresDatabase.at(shared_store.url) as database:
        database.transact(install).result()
        yield database


@pytest.fixture
def wire(postgres: ScratchPostgres) -> Iterator[TcpProxy]:
    """Give a wire to the server that can be cut."""
    with TcpProxy(postgres.port) as proxy:
        yield proxy


def through(wire: TcpProxy, url: str) -> str:
    """Return the URL of the same store over the wire."""
    return f"postgresql://trivet@127.0.0.1:{wire.port}/{url.rsplit('/', 1)[1]}"


def standing(ledger: Ledger) -> tuple[int, int]:
    """Return what the organisation uses and holds today."""
    return next((row.used, row.held) for row in ledger.rows(ACME) if row.window == "daily")


def becomes(ledger: Ledger, *, answering: bool) -> bool:
    """Wait until a replica knows whether its store is there."""
    give_up_s = time.monotonic() + PATIENCE_S
    while ledger.answers() is not answering and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return ledger.answers() is answering


def drain(ledger: Ledger, client: int) -> int:
    """Reserve and settle until the budget is used up; return what was used."""
    dice, total = random.Random(client), 0
    for number in itertools.count():
        name, scope = f"{client}-{number}", Scope(f"acme.team{client % 3}.user{client}")
        try:
            ledger.reserve(Hold.of_tokens(scope, HOLD), reservation_id=name).result()
        except BudgetExhausted:
            return total
        except BudgetContended:
            time.sleep(0.001)
            continue
        total += ledger.settle(name, Usage(0, dice.randint(50, HOLD))).result().charged
    raise AssertionError


def test_two_replicas_drain_one_budget(replica: Opener) -> None:
    """Together they overspend nothing, leave less than one hold, and their books agree."""
    ledgers = replica(), replica()
    with ThreadPoolExecutor(16) as threads:
        charged = sum(threads.map(lambda client: drain(ledgers[client % 2], client), range(16)))
    assert LIMIT - HOLD < charged <= LIMIT
    for ledger in ledgers:
        assert standing(ledger) == (charged, 0)
        assert ledger.verify().differences == ()


def test_organisations_in_one_batch_lock_in_order(replica: Opener) -> None:
    """Replicas that touch many organisations at once, in any order, never wait for each other in a circle."""
    ledgers = replica(), replica()
    dice = random.Random(1)
    futures: list[Future[Any]] = []
    for number in range(400):
        hold = Hold.of_tokens(Scope(f"org{dice.randint(1, 20)}"), 10)
        futures.append(ledgers[number % 2].reserve(hold, reservation_id=f"r{number}"))
    for future in futures:
        future.result()
    assert ledgers[0].verify().differences == ()


def test_a_limit_binds_other_replicas_at_once(replica: Opener) -> None:
    """What one replica is told, the other obeys at its next operation, also of rows not kept before."""
    first, second = replica(), replica()
    second.reserve(Hold.of_tokens(ACME, 100), reservation_id="before").result()
    first.set_limit(ACME, "weekly", 150, author="me").result()
    with pytest.raises(BudgetContended):
        second.reserve(Hold.of_tokens(ACME, 100), reservation_id="after").result()
    second.settle("before", Usage(0, 100)).result()
    assert {row.used for row in first.rows(ACME) if row.window == "weekly"} == {100}
    first.set_limit(ACME, "weekly", None, author="me").result()
    second.reserve(Hold.of_tokens(ACME, 100), reservation_id="after").result()
    assert first.verify().differences == ()


def test_replicas_agree_on_the_windows(replica: Opener) -> None:
    """A replica that comes to an edited time zone keeps to the windows that are open."""
    first = replica()
    first.record(ACME, LIMIT).result()
    first.set_time_zone(ACME, "Pacific/Kiritimati", author="me").result()
    second = replica(settings=BudgetSettings(default_daily_tokens=LIMIT, time_zone="Asia/Tokyo"))
    with pytest.raises(BudgetExhausted):
        second.reserve(Hold.of_tokens(ACME, 1), reservation_id="r").result()
    assert standing(second) == (LIMIT, 0)


def test_a_hold_may_end_elsewhere(replica: Opener) -> None:
    """Another replica can settle it, once; neither knows of what never was."""
    first, second = replica(), replica()
    first.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()
    assert second.settle("r", Usage(0, 30)).result().charged == 30
    assert first.settle("r", Usage(0, 90)).result().charged == 30
    with pytest.raises(NotFound):
        second.release("never").result()
    assert standing(first) == (30, 0)


async def test_a_waiter_hears_of_tokens_freed_elsewhere(replica: Opener) -> None:
    """It does not wait for its own deadline."""
    first, second = replica(), replica()
    first.reserve(Hold.of_tokens(ACME, LIMIT), reservation_id="all").result()
    waiting = asyncio.create_task(
        second.reserve_or_wait(Hold.of_tokens(ACME, 100), reservation_id="r", wait_s=PATIENCE_S)
    )
    await asyncio.sleep(0.1)
    begun_s = time.monotonic()
    await asyncio.wrap_future(first.settle("all", Usage(0, 50)))
    assert (await waiting).amount == 100
    assert time.monotonic() - begun_s < PATIENCE_S / 2


def test_a_killed_replica_is_buried(replica: Opener, store: str) -> None:
    """Its holds are charged in full once its lease has ended; late truth would be a correction."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.budgets.holder", store, "7", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "held\n"
        survivor = replica(lease_s=1.0)
        assert standing(survivor) == (0, 700)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    give_up_s = time.monotonic() + PATIENCE_S
    while standing(survivor) != (700, 0) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    assert standing(survivor) == (700, 0)
    assert survivor.settle("held-1", Usage(0, 40)).result().charged == 40
    assert standing(survivor) == (640, 0)
    assert survivor.verify().differences == ()


def test_many_callers_share_calls(replica: Opener) -> None:
    """What gathers while a call is under way goes in the next one."""
    ledger = replica()
    futures = [ledger.reserve(Hold.of_tokens(ACME, 1), reservation_id=f"r{n}") for n in range(300)]
    for future in futures:
        future.result()
    carrier = ledger._store.carrier  # type: ignore[attr-defined]
    assert carrier.carried == 300
    assert carrier.calls < 150


def test_a_reading_waits_for_what_was_asked(replica: Opener) -> None:
    """Whoever reads through a replica sees all that this replica was asked for before."""
    ledger = replica()
    for number in range(100):
        ledger.reserve(Hold.of_tokens(ACME, 10), reservation_id=f"r{number}")
        ledger.settle(f"r{number}", Usage(0, 7))
    assert standing(ledger) == (700, 0)


def test_one_bad_operation_spoils_no_batch(replica: Opener) -> None:
    """A write beside it that fails, or that cannot even be told, fails it alone."""

    def refused(writes: Any) -> None:
        writes.execute("INSERT INTO meta (key, value) VALUES (?, ?)", ("k", None))

    def broken(writes: Any) -> None:
        raise ZeroDivisionError

    ledger = replica()
    for name in ("a", "b", "c"):
        ledger.reserve(Hold.of_tokens(ACME, 10), reservation_id=name).result()
    fine, bad, worse = (
        ledger.settle(name, Usage(0, 5), also=also)
        for name, also in (("a", None), ("b", refused), ("c", broken))
    )
    assert fine.result().charged == 5
    with pytest.raises(StoreError):
        bad.result()
    with pytest.raises(ZeroDivisionError):
        worse.result()
    assert standing(ledger) == (5, 20)
    assert ledger.verify().differences == ()


def test_replicas_that_write_to_the_same_rows(replica: Opener) -> None:
    """What is written beside settlements is written in one order, whatever order it came in: no deadlocks."""
    sql = (
        "INSERT INTO device_minutes (device, minute, busy_ns) VALUES (?, ?, ?)"
        " ON CONFLICT (device, minute) DO UPDATE SET busy_ns = device_minutes.busy_ns + excluded.busy_ns"
    )

    def beside(number: int) -> Callable[[Any], None]:
        device = f"gpu{number % 5}"
        return lambda writes: writes.execute(sql, (device, 1, 1))

    ledgers = replica(), replica()
    futures = [
        ledgers[number % 2].record(ACME, 1, also=beside(number if number % 2 else -number))
        for number in range(300)
    ]
    for future in futures:
        future.result()
    total = text("SELECT sum(busy_ns) FROM device_minutes")
    assert ledgers[0]._store.read(lambda connection: connection.scalar(total)) == 300


def test_a_server_that_says_nothing(replica: Opener, store: str, wire: TcpProxy) -> None:
    """Callers and probes are told so in time; the hold that may have been made all the same does not stay."""
    watcher = replica()
    ledger = replica(through(wire, store), answer_within_s=0.5, lease_s=1.5)
    assert ledger.answers()
    ledger.reserve(Hold.of_tokens(ACME, 10), reservation_id="kept").result()
    wire.become("hang")
    with pytest.raises(StoreUnavailable):
        ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="doubtful").result(timeout=PATIENCE_S)
    with pytest.raises(StoreUnavailable):
        ledger.settle("kept", Usage(0, 1)).result(timeout=PATIENCE_S)
    assert becomes(ledger, answering=False)
    wire.become("refuse")
    with pytest.raises(StoreUnavailable):
        ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="refused").result(timeout=PATIENCE_S)
    wire.become("pass")
    give_up_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_s:
        try:
            ledger.settle("kept", Usage(0, 7)).result()
            break
        except StoreUnavailable:
            time.sleep(0.05)
    assert becomes(ledger, answering=True)
    assert standing(watcher) == (7, 0)
    assert watcher.verify().differences == ()


@pytest.mark.parametrize("verb", ["reserve", "settle", "record", "reweight"])
def test_an_answer_that_is_lost(replica: Opener, store: str, wire: TcpProxy, verb: str) -> None:
    """Whether a commit happened whose answer was lost is found out: nothing is done twice or forgotten."""
    ledger = replica(through(wire, store), lease_s=3600.0)
    ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()
    wire.become("swallow")
    if verb == "reserve":
        assert ledger.reserve(Hold.of_tokens(ACME, 10), reservation_id="s").result().amount == 10
    elif verb == "settle":
        assert ledger.settle("r", Usage(0, 30)).result().charged == 30
    elif verb == "record":
        assert ledger.record(ACME, 5).result().charged == 5
    else:
        assert ledger.reweight("r", Amounts(60, 60), Amounts()).result().amount == 60
    assert wire.swallowed.is_set()
    expected = {"reserve": (0, 110), "settle": (30, 0), "record": (5, 100), "reweight": (0, 60)}
    assert standing(ledger) == expected[verb]
    assert ledger.verify().differences == ()


def test_a_server_that_restarts() -> None:
    """While it is away nothing is admitted; what it had acknowledged is there afterwards."""
    with ScratchPostgres(durable=False) as server, PostgresDatabase.at(server.url()) as database:
        ledger = ledger_on(database, SETTINGS, SystemClock(), answer_within_s=0.3)
        ledger.recover()
        ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="r").result()
        server.kill()
        with pytest.raises(StoreUnavailable):
            ledger.reserve(Hold.of_tokens(ACME, 100), reservation_id="s").result()
        server.start()
        ledger.settle("r", Usage(0, 30)).result()
        assert standing(ledger) == (30, 0)
        assert ledger.verify().differences == ()


@pytest.mark.parametrize("verb", ["settle", "release", "record"])
def test_what_is_written_beside_waits_for_new_rules(replica: Opener, verb: str) -> None:
    """An operation planned under old rules leaves nothing beside it before it is carried out."""
    here, there = replica(), replica()
    here.reserve(Hold.of_tokens(ACME, 10), reservation_id="r").result()
    there.set_limit(ACME, "daily", 5000, author="me").result()

    def also(writes: Any) -> None:
        writes.execute("INSERT INTO meta (key, value) VALUES (?, ?)", ("beside", verb))

    verbs: dict[str, Callable[[], Future[Any]]] = {
        "settle": lambda: here.settle("r", Usage(5, 0), also=also),
        "release": lambda: here.release("r", also=also),
        "record": lambda: here.record(ACME, 5, also=also),
    }
    settlement = verbs[verb]().result()
    assert settlement.charged == (0 if verb == "release" else 5)
    assert here.verify().differences == ()


def test_a_limit_cleared_elsewhere_weighs_no_more(replica: Opener) -> None:
    """A replica does not go on preferring cheaper tiers for a limit that another one has removed."""
    here, there = replica(), replica()
    here.set_limit(ACME, "weekly", 1000, author="me").result()
    here.record(ACME, 860).result()
    assert here.pressure(ACME).percent_used == 86.0
    there.clear_limit(ACME, "weekly", author="me").result()
    here.record(ACME, 1).result()
    assert here.pressure(ACME).percent_used < 10


amount = st.integers(0, 40)


@given(
    rows=st.lists(st.tuples(amount, amount, amount, st.integers(1, 3)), max_size=4),
    prompt=st.tuples(amount, amount, amount),
    output=st.tuples(amount, amount, amount),
    outputs=st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted),
    final=st.booleans(),
)
def test_the_server_decides_as_python_does(
    functions: PostgresDatabase,
    rows: list[tuple[int, int, int, int]],
    prompt: tuple[int, int, int],
    output: tuple[int, int, int],
    outputs: list[int],
    final: bool,
) -> None:
    """The rules of admission, written twice, are the same rules."""
    least, most = outputs
    if not most:
        output = (0, 0, 0)  # the ledger's door takes no hold of no output that has amounts for it
    meters = ("tokens", "weighted_tokens", "usd_micros")
    balances = [
        Balance(RowKey(ACME, meters[meter - 1], "daily", "", 0, NEVER_S), used, held, limit)  # type: ignore[arg-type]
        for used, held, limit, meter in rows
    ]
    hold = Hold(
        scope=ACME, prompt=Amounts(*prompt), output=Amounts(*output), max_output=most, min_output=least
    )
    expected = grant(balances, hold, 0, final=final)
    call = text(
        f"SELECT {prefix()}grant(:used, :held, :limits, :meters, :prompt, :output, :most, :least, :final)"
    )
    values = {
        "used": [row[0] for row in rows],
        "held": [row[1] for row in rows],
        "limits": [row[2] for row in rows],
        "meters": [row[3] for row in rows],
        "prompt": list(prompt),
        "output": list(output),
        "most": most,
        "least": least,
        "final": final,
    }
    told = functions.read(lambda connection: connection.scalar(call, values))
    if isinstance(expected, BudgetError):
        assert told == (-1 if isinstance(expected, BudgetContended) else -2)
    else:
        assert told == expected
