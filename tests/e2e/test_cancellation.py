"""A request that ends at each of its await points in turn: nothing stays held, nothing works on."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Literal

import pytest

from tests.counts import scaled
from tests.doubles.programs import Programs
from tests.e2e.conftest import settings_for
from trivet.app import OpenTrivet
from trivet.app.assembly import open_trivet
from trivet.app.logs import configure_logging
from trivet.domain.budgets import Hold
from trivet.domain.scopes import Scope

Ending = Literal["cancel", "cancel_late", "cancel_twice", "leave"]
"""Cancelled where it waits; a turn of the loop later, when what it waits for may have come; once more while
it deals with that; the client closes the connection."""
ORGANISATION = Scope("acme")
LIMIT = 100_000
STEPS_MIN, STEPS_MAX = 6, 500
"""Fewer and far more than any request takes."""


class Stepped:
    """Awaits a coroutine and counts how often it suspends itself; at the k-th time it is ended."""

    def __init__(
        self, work: Coroutine[Any, Any, None], step: int, ending: Ending, gone: asyncio.Event
    ) -> None:
        self._work = work
        self._step = step
        self._ending = ending
        self._gone = gone
        self.count = 0

    def __await__(self) -> "Stepped":
        """Be the iterator that the task drives."""
        return self

    def __iter__(self) -> "Stepped":
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """Go on to the next point."""
        return self._passed(self._work.send(value))

    def throw(self, error: BaseException) -> Any:
        """Go on from an error, such as the cancellation."""
        return self._passed(self._work.throw(error))

    def close(self) -> None:
        """Give up."""
        self._work.close()

    def _passed(self, awaited: Any) -> Any:
        self.count += 1
        here = self.count - self._step
        if self._step and (here == 0 or (here == 1 and self._ending == "cancel_twice")):
            task = asyncio.current_task()
            assert task is not None
            if self._ending == "leave":
                self._gone.set()
            elif self._ending == "cancel_late":
                task.get_loop().call_soon(task.cancel)
            else:
                task.cancel()
        return awaited


async def one_request(
    trivet: OpenTrivet, key: str, *, stream: bool, step: int, ending: Ending
) -> tuple[int, list[dict[str, Any]]]:
    """Send a request through the whole application, ended at a step; return its steps and the answer."""
    text = f"{ORGANISATION} {uuid.uuid4().hex} hello"
    body = json.dumps(
        {
            "model": "auto",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 100,
            "stream": stream,
        }
    ).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "headers": [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
    }
    told = [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if told:
            return told.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    async def whole() -> None:
        await trivet.application(scope, receive, send)

    stepped = Stepped(whole(), step, ending, gone)

    async def drive() -> None:
        await stepped  # type: ignore[misc]  # an iterator is what Python awaits

    await asyncio.wait({asyncio.create_task(drive())})
    return stepped.count, sent


async def until_ready(trivet: OpenTrivet) -> None:
    """Wait until every engine has answered its probe."""
    while any(offer.state != "ready" for offer in trivet.fleet.offers()):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


async def until_quiet(trivet: OpenTrivet) -> int:
    """Return what is held once nothing is, nobody waits in line and no engine works; or after some seconds.

    Who has gone while it waited in line still has its turn, and lets go at once.
    """
    quiet, held = 0, 0
    for _ in range(1000):
        for _ in range(3):
            # What was asked of the ledger before is done, and what follows from it was asked.
            await asyncio.wrap_future(trivet.ledger.note(lambda _: None))
        held = max((row.held for row in trivet.ledger.rows(ORGANISATION)), default=0)
        busy = trivet.ledger._turnstile._lines or any(each["in_flight"] for each in trivet.fleet.report())
        quiet = 0 if held or busy else quiet + 1
        if quiet == 3:
            return 0
        if not quiet:
            await asyncio.sleep(0.005)
    return held or -1


@pytest.fixture(scope="module")
async def trivet(
    programs: Programs, fault_server: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OpenTrivet]:
    """Give an open Trivet whose first engine refuses everything, so that each request falls back."""
    engine = programs.start("tests.doubles.counting_engine", "--delay-ms", "1").url
    refuses = {"model": "openai/503", "url": f"{fault_server}/v1", "context_tokens": 4096}
    light, standard, heavy = (
        {"model": f"openai/{tier}", "url": f"{engine}/v1", "context_tokens": 4096, "slots": 8}
        for tier in ("light", "standard", "heavy")
    )
    settings = settings_for(
        tmp_path_factory.mktemp("cancelled"),
        {"light": [refuses, light], "standard": [standard], "heavy": [heavy]},
        budgets={"default_daily_tokens": LIMIT, "default_monthly_tokens": None},
    )
    configure_logging(settings.logging)
    async with open_trivet(settings) as opened:
        await until_ready(opened)
        yield opened


def get_in_the_way(trivet: OpenTrivet) -> None:
    """Hold so much that the next request has to wait in line, and let go soon after."""
    name = uuid.uuid4().hex
    used = max(row.used for row in trivet.ledger.rows(ORGANISATION))
    hold = Hold.of_tokens(ORGANISATION, LIMIT - 50 - used)
    trivet.ledger.reserve(hold, reservation_id=name).result()
    asyncio.get_running_loop().call_later(0.005, trivet.ledger.release, name)


@pytest.mark.parametrize("ending", ["cancel", "cancel_late", "cancel_twice", "leave"])
@pytest.mark.parametrize("kind", ["plain", "stream", "contended"])
async def test_ended_at_every_step(trivet: OpenTrivet, kind: str, ending: Ending) -> None:
    """Whichever point a request has come to when it ends: no hold is left, no slot; the books are proven."""
    key = trivet.keyring.create(ORGANISATION)[0]
    for _ in range(scaled(1)):
        for step in range(STEPS_MAX):
            # Step 0 is never come to: the whole request, which also lets the ledger know the organisation.
            if kind == "contended" and step:
                get_in_the_way(trivet)
            count, sent = await one_request(trivet, key, stream=kind == "stream", step=step, ending=ending)
            assert await until_quiet(trivet) == 0, f"held after an end at step {step}"
            if step == 0:
                assert sent[0]["status"] == 200
            elif count < step:
                break
        assert STEPS_MIN <= step < STEPS_MAX - 1
    assert trivet.ledger.verify().ok
    assert trivet.ledger.overrun_tokens == 0
