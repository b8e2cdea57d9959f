"""What a transport says about engines that misbehave."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.contract.calls import call_for, events_in, read_stream, read_whole
from tests.contract.conftest import Connect
from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineLoading,
    EngineRejected,
    EngineTimeout,
    StreamIncomplete,
)
from trivet.domain.tiers import TransportKind
from trivet.engines.protocol import CallLimits, Reply

HASTY = CallLimits(total_s=20.0, first_content_s=0.5, idle_s=0.5)

BEFORE_CONTENT: list[tuple[str, type[EngineError], int | None]] = [
    ("503", EngineBusy, 503),
    ("429", EngineBusy, 429),
    ("503-loading", EngineLoading, 503),
    ("500", EngineBroken, 500),
    ("html502", EngineBroken, 502),
    ("redirect", EngineBroken, 302),
    ("close-no-reply", EngineBroken, None),
    ("garbage", EngineBroken, 200),
    ("no-choices", EngineBroken, 200),
    ("error-in-200", EngineBusy, 503),
    ("role-then-error", EngineBroken, 500),
    ("400-context", ContextOverflow, 400),
    ("400", EngineRejected, 400),
    ("404", EngineBroken, 404),
    ("401", EngineBroken, 401),
]


LITELLM_SAYS: dict[tuple[str, bool], type[EngineError]] = {("no-choices", True): StreamIncomplete}
"""Where LiteLLM tells too little for the same error: it passes over chunks that are none."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "expected", "status"), BEFORE_CONTENT)
async def test_before_content(
    connect: Connect,
    transport_kind: TransportKind,
    fault_server: str,
    fault: str,
    expected: type[EngineError],
    status: int | None,
    stream: bool,
) -> None:
    """A fault before any content is raised by chat() as what it is, without the engine's address."""
    if transport_kind == "litellm":
        expected = LITELLM_SAYS.get((fault, stream), expected)
    with pytest.raises(EngineError) as caught:
        await connect(fault_server, fault).chat(call_for(fault, stream=stream))
    assert (type(caught.value), caught.value.status) == (expected, status)
    assert "127.0.0.1" not in str(caught.value)
    assert "10.0.0.7" not in str(caught.value)


async def test_retry_after(connect: Connect, fault_server: str) -> None:
    """A rate limit carries the seconds that the engine named."""
    with pytest.raises(EngineBusy) as caught:
        await connect(fault_server, "429").chat(call_for("429"))
    assert caught.value.retry_after_s == 7.0


async def test_refused_credentials_name_the_setting(connect: Connect, fault_server: str) -> None:
    """A 401 from an engine is the operator's to mend and says where."""
    with pytest.raises(EngineBroken, match="api_key"):
        await connect(fault_server, "401").chat(call_for("401"))


async def collect(reply: Reply, parts: list[bytes]) -> None:
    """Append a stream's bytes to `parts`, as far as it goes."""
    async for chunk in reply.chunks():
        parts.append(chunk.data)  # noqa: PERF401 - what came before an error must not be lost


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("stall", EngineTimeout),
        ("cut", StreamIncomplete),
        ("early-end", StreamIncomplete),
        ("error-amid", EngineBroken),
    ],
)
async def test_after_content(
    connect: Connect, fault_server: str, fault: str, expected: type[EngineError]
) -> None:
    """A fault after content is raised by chunks(), after the content that came before it."""
    reply = await connect(fault_server, fault).chat(call_for(fault, stream=True, limits=HASTY))
    parts: list[bytes] = []
    with pytest.raises(EngineError) as caught:
        await collect(reply, parts)
    await reply.aclose()
    events = events_in(b"".join(parts))
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    assert type(caught.value) is expected
    assert text == "alpha beta "
    assert (reply.content_events, reply.finished) == (2, False)


async def test_hang_stream(connect: Connect, fault_server: str) -> None:
    """Silence before the first content ends with first_content_s."""
    with pytest.raises(EngineTimeout):
        await connect(fault_server, "hang").chat(call_for("hang", stream=True, limits=HASTY))


@pytest.mark.parametrize("fault", ["hang", "stall"])
async def test_hang_plain(connect: Connect, fault_server: str, fault: str) -> None:
    """A plain answer that does not arrive ends with total_s."""
    with pytest.raises(EngineTimeout):
        await connect(fault_server, fault).chat(call_for(fault, limits=CallLimits(total_s=0.5)))


async def test_cut_plain(connect: Connect, fault_server: str) -> None:
    """A plain answer that is cut is EngineBroken."""
    with pytest.raises(EngineBroken):
        await connect(fault_server, "cut").chat(call_for("cut"))


async def test_drip_is_kept(connect: Connect, fault_server: str) -> None:
    """A slow stream whose pauses stay within idle_s is read to its end."""
    read = await read_stream(
        connect(fault_server, "drip"),
        call_for("drip", stream=True, limits=CallLimits(total_s=60.0, idle_s=10.0)),
    )
    assert read.text.split() == ["alpha", "beta", "gamma", "delta"] * 2
    assert read.reply.finished


async def test_deadline_amid_a_stream(connect: Connect, fault_server: str) -> None:
    """The total deadline ends a stream that never pauses for long."""
    limits = CallLimits(total_s=1.0, idle_s=10.0)
    reply = await connect(fault_server, "drip").chat(
        call_for("drip", stream=True, limits=limits, max_tokens=500)
    )
    with pytest.raises(EngineTimeout):
        await collect(reply, [])


@pytest.mark.parametrize("stream", [False, True])
async def test_empty_answer(connect: Connect, fault_server: str, stream: bool) -> None:
    """An answer that stops at once is finished and empty, no error."""
    transport = connect(fault_server, "empty-ok")
    if stream:
        reply = (await read_stream(transport, call_for("empty-ok", stream=True))).reply
    else:
        reply, _ = await read_whole(transport, call_for("empty-ok"))
    assert (reply.finished, reply.content_events) == (True, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault", ["no-usage", "wrong-usage-negative", "wrong-usage-huge", "wrong-usage-string"]
)
async def test_usage_that_is_none(
    connect: Connect, transport_kind: TransportKind, fault_server: str, fault: str, stream: bool
) -> None:
    """Absent or impossible usage is None; the answer stands (not LiteLLM's, where words are for numbers)."""
    transport = connect(fault_server, fault)
    if (transport_kind, fault, stream) == ("litellm", "wrong-usage-string", False):
        with pytest.raises(EngineBroken):
            await read_whole(transport, call_for(fault))
        return
    if stream:
        reply = (await read_stream(transport, call_for(fault, stream=True))).reply
        assert reply.content_events == 8
    else:
        reply, _ = await read_whole(transport, call_for(fault))
    assert (reply.usage, reply.finished) == (None, True)


async def test_oversized_event(connect: Connect, fault_server: str) -> None:
    """An event without end is cut off as broken."""
    with pytest.raises(EngineBroken):
        await connect(fault_server, "oversized").chat(call_for("oversized", stream=True))


async def stats(session: aiohttp.ClientSession, url: str) -> dict[str, int]:
    """Return the fault server's counts."""
    async with session.get(f"{url}/stats") as response:
        found: dict[str, int] = json.loads(await response.read())
        return found


async def aborted_more(session: aiohttp.ClientSession, url: str, before: int) -> None:
    """Return once the fault server has noticed another client leave."""
    async with asyncio.timeout(20):
        while True:
            if (await stats(session, url))["aborted"] > before:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("model", ["hang", "slow"])
@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_anywhere(
    connect: Connect, session: aiohttp.ClientSession, fault_server: str, model: str, stream: bool
) -> None:
    """A cancelled caller leaves no connection behind: the engine sees it go."""
    if model == "slow" and not stream:
        model = "stall"
    before = (await stats(session, fault_server))["aborted"]
    transport = connect(fault_server, model)

    async def read() -> None:
        call = call_for(model, stream=stream, max_tokens=500)
        if stream:
            await read_stream(transport, call)
        else:
            await read_whole(transport, call)

    task = asyncio.create_task(read())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await aborted_more(session, fault_server, before)


async def test_generator_closed_early(
    connect: Connect, session: aiohttp.ClientSession, fault_server: str
) -> None:
    """A reader that stops iterating and closes the reply ends the work; closing twice does no harm."""
    before = (await stats(session, fault_server))["aborted"]
    reply = await connect(fault_server, "slow").chat(call_for("slow", stream=True, max_tokens=500))
    chunks = reply.chunks()
    assert isinstance(chunks, AsyncIterator)
    await anext(chunks)
    await reply.aclose()
    await reply.aclose()
    await aborted_more(session, fault_server, before)
