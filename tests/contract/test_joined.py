"""Plain answers of llama.cpp that are joined from streams: the same documents, and nothing left running."""

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.contract.calls import call_for, deployment_of, read_whole
from tests.contract.test_fault_matrix import BEFORE_CONTENT, HASTY, aborted_more, stats
from tests.contract.test_transport_relay import ENDLESS, GREEDY, MODEL, predicted_tokens
from trivet.domain.errors import EngineBroken, EngineError, EngineTimeout, StreamIncomplete
from trivet.domain.outcomes import Usage
from trivet.engines.connect import open_transport
from trivet.engines.protocol import CallLimits
from trivet.engines.relay import Relay

PASSING = ("id", "created", "timings")
"""What differs between any two answers."""
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
VERDICT = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT}}


def joined(session: aiohttp.ClientSession, url: str, model: str = MODEL) -> Relay:
    """Return the relay as a llama.cpp deployment gets it."""
    relay = open_transport(deployment_of(url, model, engine="llamacpp"), session=session, api_key=None)
    assert isinstance(relay, Relay)
    return relay


def lasting(document: dict[str, Any]) -> dict[str, Any]:
    """Return what two answers to one request have in common."""
    usage = {name: value for name, value in document["usage"].items() if name != "prompt_tokens_details"}
    return {name: value for name, value in document.items() if name not in PASSING} | {"usage": usage}


@pytest.mark.parametrize(
    "fields",
    [
        ENDLESS,
        {"logprobs": True, "top_logprobs": 2, "max_tokens": 5, **ENDLESS},
        {"response_format": SCHEMA, "max_tokens": 200},
        {"tools": [TOOL], "tool_choice": "auto", **ENDLESS},
        {"tools": [TOOL], "logprobs": True, "max_tokens": 3, **ENDLESS},
        {"seed": 7, "temperature": 1.0, "max_tokens": 40, **ENDLESS},
        {"seed": 7, "temperature": 1.5, "max_tokens": 200, "stop": ["e"], **ENDLESS},
        {"seed": 3, "temperature": 1.5, "max_tokens": 30, "logprobs": True, **ENDLESS},
        {"logit_bias": [[2, 100]]},
        {"max_tokens": 2, "return_progress": True, "timings_per_token": True, **ENDLESS},
    ],
    ids=["plain", "logprobs", "schema", "tools", "both", "seed", "stop", "sampled", "empty", "progress"],
)
async def test_the_same_document(
    session: aiohttp.ClientSession, light_url: str, fields: dict[str, Any]
) -> None:
    """A joined answer is field for field what llama.cpp answers a plain request with."""
    call = call_for(MODEL, **{**GREEDY, "cache_prompt": False, **fields})
    _, expected = await read_whole(Relay(light_url, session=session), call)
    reply, actual = await read_whole(joined(session, light_url), call)
    assert lasting(actual) == lasting(expected)
    assert set(actual) == set(expected)
    assert actual["id"] != expected["id"]
    assert set(actual["timings"]) == set(expected["timings"])
    assert reply.finished
    assert reply.usage == Usage(expected["usage"]["prompt_tokens"], expected["usage"]["completion_tokens"])


async def test_usage_of_several_choices(session: aiohttp.ClientSession, light_url: str) -> None:
    """All choices are there and all are counted, of which llama.cpp's plain answers count one only."""
    call = call_for(MODEL, n=2, max_tokens=6, **GREEDY, **ENDLESS)
    _, direct = await read_whole(Relay(light_url, session=session), call)
    reply, document = await read_whole(joined(session, light_url), call)
    assert document["choices"] == direct["choices"]
    assert reply.usage is not None
    assert (direct["usage"]["completion_tokens"], reply.usage.completion_tokens) == (6, 12)
    prompt_tokens = direct["usage"]["prompt_tokens"]
    assert reply.usage.prompt_tokens == prompt_tokens
    assert document["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 12,
        "total_tokens": prompt_tokens + 12,
        "prompt_tokens_details": None,
    }


async def test_several_choices_that_cannot_be_streamed(
    session: aiohttp.ClientSession, light_url: str
) -> None:
    """Log-probabilities beside tools come whole only; llama.cpp's count of one choice is no count then."""
    call = call_for(MODEL, n=2, tools=[TOOL], logprobs=True, max_tokens=3, **ENDLESS)
    reply, document = await read_whole(joined(session, light_url), call)
    assert [choice["index"] for choice in document["choices"]] == [0, 1]
    assert (reply.finished, reply.usage) == (True, None)


async def busy_slots(session: aiohttp.ClientSession, url: str) -> int:
    """Return how many slots of a llama.cpp server are at work."""
    async with session.get(f"{url}/slots") as response:
        return sum(bool(slot["is_processing"]) for slot in await response.json())


async def until_busy(session: aiohttp.ClientSession, url: str, expected: int) -> None:
    """Return once so many slots are at work."""
    async with asyncio.timeout(20):
        while True:
            if await busy_slots(session, url) == expected:
                return
            await asyncio.sleep(0.005)


async def test_leaving_frees_the_slot(session: aiohttp.ClientSession, heavy_url: str) -> None:
    """A plain request that is cancelled amid its answer stops the engine long before the answer's end."""
    transport = joined(session, heavy_url, "tiny-heavy")
    before = await predicted_tokens(session, heavy_url)
    fields: dict[str, Any] = {"n": 4, "max_tokens": 1900, **ENDLESS}
    task = asyncio.create_task(read_whole(transport, call_for("tiny-heavy", **fields)))
    await until_busy(session, heavy_url, 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_busy(session, heavy_url, 0)
    assert await predicted_tokens(session, heavy_url) - before < 4 * 1900


@pytest.mark.parametrize(("fault", "expected", "status"), BEFORE_CONTENT)
async def test_before_content(
    session: aiohttp.ClientSession,
    fault_server: str,
    fault: str,
    expected: type[EngineError],
    status: int | None,
) -> None:
    """A fault before any content is what it is for any other plain answer."""
    with pytest.raises(EngineError) as caught:
        await joined(session, fault_server).chat(call_for(fault))
    assert (type(caught.value), caught.value.status) == (expected, status)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("hang", EngineTimeout),
        ("stall", EngineTimeout),
        ("cut", StreamIncomplete),
        ("early-end", StreamIncomplete),
        ("error-amid", EngineBroken),
        ("oversized", EngineBroken),
    ],
)
async def test_amid_the_answer(
    session: aiohttp.ClientSession, fault_server: str, fault: str, expected: type[EngineError]
) -> None:
    """Silence and a cut are told by chat() within a stream's limits; the next engine may be asked."""
    with pytest.raises(EngineError) as caught:
        await joined(session, fault_server).chat(call_for(fault, limits=HASTY))
    assert (type(caught.value), caught.value.retryable) == (expected, True)


async def test_deadline(session: aiohttp.ClientSession, fault_server: str) -> None:
    """The total deadline ends an answer that never pauses for long."""
    limits = CallLimits(total_s=1.0, idle_s=10.0)
    with pytest.raises(EngineTimeout, match="deadline"):
        await joined(session, fault_server).chat(call_for("drip", limits=limits, max_tokens=500))


@pytest.mark.parametrize("model", ["hang", "stall", "slow"])
async def test_cancelled_anywhere(session: aiohttp.ClientSession, fault_server: str, model: str) -> None:
    """Wherever the caller leaves, the engine sees it."""
    before = (await stats(session, fault_server))["aborted"]
    task = asyncio.create_task(joined(session, fault_server).chat(call_for(model, max_tokens=500)))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await aborted_more(session, fault_server, before)


@pytest.mark.parametrize("fault", ["ok", "no-usage", "wrong-usage-negative", "empty-ok"])
async def test_an_odd_server(session: aiohttp.ClientSession, fault_server: str, fault: str) -> None:
    """Whatever its usage, a server's stream says what its plain answer says."""
    direct, expected = await read_whole(Relay(fault_server, session=session), call_for(fault))
    reply, actual = await read_whole(joined(session, fault_server), call_for(fault))
    assert actual.get("usage") == expected.get("usage")
    assert (reply.usage, reply.finished) == (direct.usage, direct.finished)
    text, told = (document["choices"][0]["message"]["content"] for document in (expected, actual))
    assert told.split() == text.split()
