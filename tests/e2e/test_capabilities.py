"""A fallback keeps what the request needs: an engine that lacks it is never asked, whatever else fails."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.conftest import House, serving, settings_for

PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
PLAIN = [{"role": "user", "content": "Hello"}]
SEES = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
    }
]
NEEDS: dict[str, dict[str, Any]] = {
    "tools": {"messages": PLAIN, "tools": [TOOL]},
    "vision": {"messages": SEES},
    "json_schema": {"messages": PLAIN, "response_format": SCHEMA},
    "logprobs": {"messages": PLAIN, "logprobs": True},
}
ALL = sorted(NEEDS)


def _without(*lacking: str) -> list[str]:
    return [each for each in ALL if each not in lacking]


@pytest.fixture(scope="module")
async def stairs(fault_server: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A light engine that can do all and fails, standard ones that lack one thing each, a heavy one."""
    place = {"url": fault_server, "context_tokens": 4096, "local": True, "devices": ["host"]}
    broken = {"name": "broken", "model": "openai/500", "capabilities": ALL, **place}
    narrow = {"name": "narrow", "model": "openai/400-context", "capabilities": ALL, **place}
    narrow["context_tokens"] = 256
    lacking = [
        {"name": f"no-{each}", "model": "openai/ok", **place, "capabilities": _without(each)} for each in ALL
    ]
    whole = {"name": "whole", "model": "openai/ok", "capabilities": ALL, **place}
    settings = settings_for(
        tmp_path_factory.mktemp("stairs"),
        {"light": [broken, narrow], "standard": lacking, "heavy": [whole]},
        execution={"max_attempts": 12, "breaker_consecutive_failures": 1000},
    )
    async with serving(settings) as found:
        yield found


async def ask(house: House, models: tuple[str, ...], fields: dict[str, Any]) -> tuple[int, str, Any]:
    """Ask by a key that may use these deployments only; return status, what was tried, and the body."""
    scope = f"capable.{'-'.join(models)[:40].replace('_', '-')}"
    body = {"model": "light", "max_tokens": 8, **fields}
    async with house.http(house.key(scope, models=models)) as http:
        answer = await http.post("/v1/chat/completions", json=body)
    return answer.status_code, answer.headers.get("x-trivet-attempt-path", ""), answer.json()


@pytest.mark.parametrize("need", ALL)
async def test_passed_over_on_a_fallback(stairs: House, need: str) -> None:
    """The engine that lacks it stands next in line and is well; the one behind it is asked instead."""
    status, tried, _ = await ask(stairs, ("broken", f"no-{need}", "whole"), NEEDS[need])
    assert (status, tried) == (200, "light/broken:error, heavy/whole:ok")


@pytest.mark.parametrize("need", ALL)
async def test_an_error_rather_than_a_loss(stairs: House, need: str) -> None:
    """Where only such an engine is left the request fails, and does not lose what it asked for."""
    status, tried, body = await ask(stairs, ("broken", f"no-{need}"), NEEDS[need])
    assert (status, tried) == (502, "light/broken:error")
    assert body["error"]["code"] == "upstream_error"


async def test_what_needs_nothing_goes_anywhere(stairs: House) -> None:
    """The same engines do serve whoever needs none of it."""
    status, tried, _ = await ask(stairs, ("broken", "no-tools"), {"messages": PLAIN})
    assert (status, tried) == (200, "light/broken:error, standard/no-tools:ok")


async def test_an_overflow_goes_to_a_window_that_fits(stairs: House) -> None:
    """An engine that says that the prompt is too long is followed by a larger window."""
    status, tried, _ = await ask(stairs, ("narrow", "whole"), {"messages": PLAIN})
    assert (status, tried) == (200, "light/narrow:context_length_exceeded, heavy/whole:ok")


async def test_an_overflow_of_the_largest_window_is_named(stairs: House) -> None:
    """Without one the answer is a 400 that names the largest window there is."""
    status, tried, body = await ask(stairs, ("narrow",), {"messages": PLAIN})
    assert (status, tried) == (400, "light/narrow:context_length_exceeded")
    assert body["error"]["code"] == "context_length_exceeded"
    assert body["error"]["trivet"]["largest_context_tokens"] == 256
    assert "narrow: 256 tokens" in body["error"]["message"]


async def test_a_prompt_that_fits_nowhere_is_not_sent(stairs: House) -> None:
    """What can fit no window by any count is refused before any engine is asked, with the largest named."""
    long = [{"role": "user", "content": "word " * 20_000}]
    status, tried, body = await ask(stairs, ("narrow", "whole"), {"messages": long})
    assert (status, tried) == (400, "")
    assert body["error"]["trivet"]["largest_context_tokens"] == 4096
    assert json.dumps(body).count("4096 tokens") >= 1
