"""The faults that a real llama.cpp can be brought to: it hangs, is killed, gone, or has a small window."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.programs import Program, Programs
from tests.e2e.conftest import ENDLESS, House, serving, settings_for
from trivet.config.settings import Settings

TRANSPORTS = ("relay", "litellm")
MESSAGES = [{"role": "user", "content": "Hello"}]
LONG = [{"role": "user", "content": "heavy model, please tell " * 60}]
LONG_ANSWER = 2000
"""Tokens that even the tiniest model needs a second or two for."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A Trivet in front of a llama.cpp that may be harmed, one with a small window, and one that is well."""

    house: House
    victim: Program

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let the victim hang: it accepts connections and says nothing."""
        os.kill(self.victim.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.victim.process.pid, signal.SIGCONT)

    async def ask(self, scope: str, models: tuple[str, ...], **fields: Any) -> Any:
        """Ask by a key that may use these deployments only."""
        body = {"model": "light", "messages": MESSAGES, "max_tokens": 8, **fields}
        async with self.house.http(self.house.key(scope, models=models)) as http:
            return await http.post("/v1/chat/completions", json=body)

    async def books(self, scope: str) -> tuple[int, int]:
        """Return what a scope has used and holds, after a proof of all of it."""
        async with self.house.http() as http:
            assert (await http.post("/api/v1/ledger/verify")).json()["ok"]
            rows = (await http.get(f"/api/v1/budgets/{scope}/status")).json()["rows"]
            savings = (await http.get("/api/v1/savings")).json()
        assert savings["attributed"] == pytest.approx(savings["busy"], abs=1e-4)
        own = next(row for row in rows if (row["scope"], row["meter"]) == (scope, "tokens"))
        return own["used"], own["held"]

    async def prompt_ceiling(self) -> int:
        """Return what is held for the prompt."""
        async with self.house.http() as http:
            body = {"model": "relay-victim", "messages": MESSAGES, "max_tokens": 8}
            return int((await http.post("/api/v1/route", json=body)).json()["estimated"]["prompt_tokens"])

    async def broken_stream(self, scope: str, model: str, harm: Callable[[], Awaitable[None]]) -> list[Any]:
        """Begin a long stream, do harm after its first content, and return its events."""
        body = {
            "model": model,
            "messages": MESSAGES,
            "max_tokens": LONG_ANSWER,
            "stream": True,
            **ENDLESS,
        }
        events: list[str] = []
        harmed = False
        async with (
            self.house.http(self.house.key(scope)) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if not harmed and '"content":"' in line:
                    harmed = True
                    await harm()
                if line.startswith("data: "):
                    events.append(line.removeprefix("data: "))
        return [event if event == "[DONE]" else json.loads(event) for event in events]


def _settings(directory: Path, victim: str, small: str, well: str) -> Settings:
    def both(name: str, url: str, context_tokens: int, model: str = "tiny-light") -> list[dict[str, Any]]:
        place = {"model": f"llamacpp/{model}", "url": url, "context_tokens": context_tokens}
        return [{"name": f"{way}-{name}", "transport": way, **place} for way in TRANSPORTS]

    settings = settings_for(
        directory,
        {
            "light": [*both("victim", victim, 4096, "tiny-heavy"), *both("small", small, 256)],
            "standard": both("well", well, 4096),
            "heavy": both("spare", well, 4096),
        },
        execution={"first_content_timeout_s": 1.5, "idle_timeout_s": 1.5, "deadline_s": 20.0},
    )
    tree = settings.model_dump(exclude_unset=True)
    tree["tiers"][0]["max_output_tokens"] = LONG_ANSWER
    return Settings.model_validate(tree)


@pytest.fixture(scope="module")
async def scene(
    programs: Programs, tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    """Give three llama.cpp servers behind a Trivet; each is reached over both transports."""
    model = tiny_models["light"]
    victim = programs.start_llama(tiny_models["heavy"], context_tokens=4096, slots=2)
    small = programs.start_llama(model, context_tokens=256, slots=1)
    well = programs.start_llama(model, context_tokens=4096, slots=1)
    settings = _settings(tmp_path_factory.mktemp("scene"), victim.url, small.url, well.url)
    async with serving(settings) as house:
        yield Scene(house, victim)


async def test_an_engine_that_hangs_is_left(scene: Scene) -> None:
    """Silence before the first byte ends with its limit; the next engine answers, the prompt is charged."""
    with scene.stopped():
        asked = (scene.ask(f"llama.{w}-hang", (f"{w}-victim", f"{w}-well"), stream=True) for w in TRANSPORTS)
        answers = await asyncio.gather(*asked)
    for way, answer in zip(TRANSPORTS, answers, strict=True):
        assert answer.status_code == 200, answer.text
        path = f"light/{way}-victim:timeout, standard/{way}-well:ok"
        assert answer.headers["x-trivet-attempt-path"] == path
        assert answer.text.endswith("data: [DONE]\n\n")
        used, held = await scene.books(f"llama.{way}-hang")
        assert held == 0
        assert used > await scene.prompt_ceiling()


async def test_an_engine_that_hangs_amid_its_streams(scene: Scene) -> None:
    """Silence amid the answer is an error event: no finish, no [DONE], no second engine."""
    begun = asyncio.Barrier(len(TRANSPORTS))
    pid = scene.victim.process.pid

    async def stop_once_both_have_begun() -> None:
        async with begun:
            os.kill(pid, signal.SIGSTOP)

    try:
        streams = (
            scene.broken_stream(f"llama.{way}-stall", f"{way}-victim", stop_once_both_have_begun)
            for way in TRANSPORTS
        )
        told = await asyncio.gather(*streams)
    finally:
        os.kill(pid, signal.SIGCONT)
    for way, events in zip(TRANSPORTS, told, strict=True):
        assert events[-1]["error"]["code"] == "upstream_timeout"
        assert all(choice["finish_reason"] is None for event in events[:-1] for choice in event["choices"])
        used, held = await scene.books(f"llama.{way}-stall")
        assert held == 0
        assert used > await scene.prompt_ceiling()


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_a_window_that_is_too_small(scene: Scene, way: str) -> None:
    """llama.cpp's own word that the prompt is too long leads to a larger window, or to an honest 400."""
    answer = await scene.ask(f"llama.{way}-over", (f"{way}-small", f"{way}-well"), messages=LONG)
    assert answer.status_code == 200, answer.text
    path = f"light/{way}-small:context_length_exceeded, standard/{way}-well:ok"
    assert answer.headers["x-trivet-attempt-path"] == path
    alone = await scene.ask(f"llama.{way}-alone", (f"{way}-small",), messages=LONG)
    assert (alone.status_code, alone.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert alone.json()["error"]["trivet"]["largest_context_tokens"] == 256
    assert await scene.books(f"llama.{way}-alone") == (0, 0)


async def test_an_engine_that_is_killed(scene: Scene) -> None:
    """A kill amid a stream is an incomplete answer; after it the connection is refused, and others serve."""

    async def kill() -> None:
        scene.victim.process.kill()

    events = await scene.broken_stream("llama.killed", "relay-victim", kill)
    assert events[-1]["error"]["code"] == "upstream_incomplete"
    assert "[DONE]" not in events
    used, held = await scene.books("llama.killed")
    assert held == 0
    assert used > await scene.prompt_ceiling()
    for way in TRANSPORTS:
        scope = f"llama.{way}-gone"
        alone = await scene.ask(scope, (f"{way}-victim",))
        assert (alone.status_code, alone.json()["error"]["code"]) == (502, "upstream_unavailable")
        assert await scene.books(scope) == (0, 0)
        answer = await scene.ask(f"llama.{way}-on", (f"{way}-victim", f"{way}-well"))
        assert (answer.status_code, answer.headers["x-trivet-tier"]) == (200, "standard")
