"""Pieces of a stream that are passed on the moment they arrive, before whoever reads the stream is woken."""

import asyncio
import itertools
import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.domain.errors import EngineError, EngineTimeout, StreamIncomplete
from trivet.engines.received import WireAnswer
from trivet.engines.streams import StreamReply


def event(delta: dict[str, Any], *, finish: str | None = None) -> bytes:
    """Return one event of a chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


ROLE = event({"role": "assistant", "content": ""})
WORD, LINE, CALL = event({"content": "a"}), event({"content": "a\n"}), event({"tool_calls": [{"index": 0}]})
STOP = event({}, finish="stop")
COMMENT, DONE = b": comment\n\n", b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
ERROR = b'data: {"error":{"message":"out of memory","code":500}}\n\n'


class Pipe:
    """Where answers come from that a test writes."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.answer = WireAnswer(self)
        self.aborted = False
        self.answer.set_head(200, {b"content-type": b"text/event-stream"})

    def pause(self) -> None:
        """Be read by tests alone."""

    def resume(self) -> None:
        """Be read by tests alone."""

    def abort(self) -> None:
        """Note that the answer was given up."""
        self.aborted = True

    def arrive(self, data: bytes) -> None:
        """Do what a connection does with a part of the body."""
        self.answer.add(data)
        self.answer.note_news()

    def reply(self, *, idle_s: float = 30.0) -> StreamReply:
        """Return what reads it."""
        deadline_s = asyncio.get_running_loop().time() + 60.0
        return StreamReply(self.answer, deadline_s=deadline_s, idle_s=idle_s, choices=1)


class Taker:
    """Takes what it is offered as often as it is told to, and notes all that is passed on, in order."""

    def __init__(self, takes: list[bool]) -> None:
        self.passed: list[bytes] = []
        self.taken = 0
        self._takes = itertools.chain(takes, itertools.repeat(True))

    def take(self, data: bytes) -> bool:
        """Take it, or not."""
        if not next(self._takes):
            return False
        self.passed.append(data)
        self.taken += 1
        return True

    async def read(self, reply: StreamReply) -> EngineError | None:
        """Read a stream to its end; return how it broke, if it did."""
        try:
            await reply.open()
            async for chunk in reply.chunks(self.take):
                self.passed.append(chunk.data)
        except EngineError as error:
            return error
        return None


async def relayed(parts: list[bytes], taker: Taker) -> tuple[StreamReply, EngineError | None]:
    """Read a stream that arrives in these parts, each once the one before has been seen to."""
    pipe = Pipe()
    reply = pipe.reply()
    reading = asyncio.create_task(taker.read(reply))
    for part in parts:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        pipe.arrive(part)
    pipe.answer.end()
    return reply, await reading


@given(
    events=st.lists(st.sampled_from([WORD, LINE, CALL, COMMENT, ROLE]), max_size=12),
    tail=st.sampled_from([STOP + USAGE + DONE, STOP, USAGE, ERROR, b"data: {", b""]),
    cuts=st.lists(st.integers(min_value=0, max_value=1200), max_size=12),
    takes=st.lists(st.booleans(), max_size=8),
)
async def test_however_it_arrives_the_same_is_passed_on(
    events: list[bytes], tail: bytes, cuts: list[int], takes: list[bool]
) -> None:
    """In order, once, and counted alike, as where nothing is offered and the stream arrives at once."""
    stream = b"".join([ROLE, *events, tail])
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parts = [part for start, end in itertools.pairwise(edges) if (part := stream[start:end])]
    taker, whole = Taker(takes), Taker([False] * len(stream))
    reply, error = await relayed(parts, taker)
    expected, its_error = await relayed([stream], whole)
    assert b"".join(taker.passed) == b"".join(whole.passed)
    assert (type(error), str(error)) == (type(its_error), str(its_error))
    for name in ("usage", "finished", "content_events", "content_bytes"):
        assert getattr(reply, name) == getattr(expected, name)


async def test_plain_pieces_wake_nobody() -> None:
    """Whole ones of text are taken, several at once if they come so; what says more is read."""
    taker = Taker([])
    reply, error = await relayed(
        [ROLE, WORD, WORD, WORD + WORD, LINE, WORD[:9], WORD[9:], WORD, STOP, USAGE + DONE], taker
    )
    assert error is None
    assert taker.taken == 3
    assert taker.passed == [ROLE, WORD, WORD, WORD + WORD, LINE, WORD, WORD, STOP, USAGE]
    assert (reply.finished, reply.content_events) == (True, 7)


async def test_a_stream_that_ends_after_what_was_taken_is_incomplete() -> None:
    """What nobody was woken for does not make a whole answer."""
    reply, error = await relayed([ROLE, WORD, WORD, WORD], Taker([]))
    assert isinstance(error, StreamIncomplete)
    assert (reply.finished, reply.content_events) == (False, 3)


async def test_what_is_taken_is_a_sign_of_life_and_silence_after_it_is_not() -> None:
    """The time for silence begins anew with each piece."""
    pipe, taker = Pipe(), Taker([])
    loop = asyncio.get_running_loop()
    for number in range(1, 8):
        loop.call_later(0.02 * number, pipe.arrive, WORD)
    pipe.arrive(ROLE + WORD)
    begun_s = loop.time()
    error = await taker.read(pipe.reply(idle_s=0.06))
    assert isinstance(error, EngineTimeout)
    assert taker.taken == 7
    assert loop.time() - begun_s >= 0.2
    assert pipe.aborted


async def test_nothing_is_offered_once_the_reader_has_been_cancelled() -> None:
    """Nor after the stream was closed: the client has gone."""
    pipe, taker = Pipe(), Taker([])
    reading = asyncio.create_task(taker.read(pipe.reply()))
    pipe.arrive(ROLE + WORD)
    await asyncio.sleep(0.01)
    pipe.arrive(WORD)
    reading.cancel()
    pipe.arrive(WORD)
    with pytest.raises(asyncio.CancelledError):
        await reading
    pipe.arrive(WORD)
    assert taker.taken == 1
    assert pipe.aborted


async def test_a_connection_that_breaks_after_what_was_taken() -> None:
    """The reader is woken for that."""
    pipe, taker = Pipe(), Taker([])
    reading = asyncio.create_task(taker.read(pipe.reply()))
    for part in (ROLE + WORD, WORD):
        pipe.arrive(part)
        await asyncio.sleep(0.01)
    pipe.answer.end(aiohttp.ClientPayloadError("cut"))
    assert isinstance(await asyncio.wait_for(reading, 5.0), StreamIncomplete)
    assert taker.taken == 1
