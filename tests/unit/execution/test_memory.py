"""What may be kept of an answer, and how it is told again."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.execution.test_upstream import DEPLOYMENT, decision
from trivet.cache import ResponseCache
from trivet.cache.places import Places
from trivet.cache.sqlite_shelf import SqliteShelf
from trivet.config.cache_settings import CacheSettings
from trivet.domain.clock import SystemClock
from trivet.domain.outcomes import Attempt, Outcome
from trivet.domain.requests import ChatRequest, Hints
from trivet.domain.scopes import Scope
from trivet.domain.surfaces import Surface
from trivet.engines.answers import PlainReply
from trivet.engines.joined import AnswerJoiner
from trivet.engines.sse import EventSplitter, chunk_document
from trivet.execution.kept_reply import KeptReply
from trivet.execution.memory import AnswerMemory, may_be_kept

COLD = {"messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}
DEFAULT = CacheSettings(enabled=True)


def request(**changes: Any) -> ChatRequest:
    """Return a request that may be kept, but for the changes."""
    body = COLD | changes.pop("body", {})
    return ChatRequest(body=body, body_bytes=1, model="auto", **changes)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request(), True),
        (request(stream=True), True),
        (request(body={"tools": []}), True),
        (request(body={"tools": [{}]}), False),
        (request(body={"functions": [{}]}), False),
        (request(body={"logprobs": True}), False),
        (request(body={"modalities": ["text", "audio"]}), False),
        (request(body={"temperature": 0.1}), False),
        (request(body={"temperature": None}), False),
        (request(body={"temperature": False}), False),
        (request(body={"temperature": 0.1}, cache="allow"), True),
        (request(cache="refresh"), True),
        (request(cache="no-store"), False),
        (request(n=2), False),
        (request(decision_id="d"), False),
        (request(surface=Surface.COMPLETIONS), False),
    ],
)
def test_what_may_be_kept(asked: ChatRequest, expected: bool) -> None:
    """One finished choice of words, of temperature 0 unless the caller says otherwise."""
    assert may_be_kept(asked, decision(), DEFAULT) is expected


def test_the_policys_temperature_counts_where_the_caller_names_none() -> None:
    """And the settings may allow any."""
    asked = request(body={"temperature": None})
    assert may_be_kept(asked, decision(temperature=0.0), DEFAULT)
    assert not may_be_kept(asked, decision(temperature=0.2), DEFAULT)
    assert may_be_kept(asked, decision(), CacheSettings(enabled=True, temperature="any"))


@given(
    content=st.text(min_size=1, max_size=300),
    reasoning=st.none() | st.text(min_size=1, max_size=80),
    finish=st.sampled_from(["stop", "length"]),
)
async def test_a_stream_of_a_kept_answer_joins_to_it(
    content: str, reasoning: str | None, finish: str
) -> None:
    """Whatever its text: the events, read as an engine's would be, make the same message."""
    message = {"role": "assistant", "content": content}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    document = {"id": "old", "model": "m", "choices": choices, "usage": usage}
    reply = KeptReply(document, request_id="r", created_s=5, stream=True)
    joiner, splitter, usage_chunks = AnswerJoiner(), EventSplitter(), 0
    async for chunk in reply.chunks():
        usage_chunks += chunk.usage_only
        for event in splitter.feed(chunk.data):
            found = chunk_document(event)
            assert found is not None
            joiner.add(found)
    whole = joiner.document()
    assert whole["choices"][0]["message"] == message
    assert whole["choices"][0]["finish_reason"] == finish
    assert (whole["id"], whole["created"], whole["usage"], usage_chunks) == ("chatcmpl-r", 5, usage, 1)


CHOICE: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"content": "me"}}
ANSWER: dict[str, Any] = {"id": "x", "choices": [CHOICE]}


def outcome(**changes: Any) -> Outcome:
    """Return the outcome of a request that ended well."""
    attempt = Attempt(attempt_id="a", deployment=DEPLOYMENT, dispatched_ns=0, ended_ns=9, device_ns=7)
    values: dict[str, Any] = {
        "request_id": "r",
        "key_id": "k",
        "scope": Scope("acme"),
        "decision": decision(),
        "hints": Hints(),
        "stream": False,
        "started_ns": 0,
        "ended_ns": 9,
        "status": "ok",
        "attempts": [attempt],
    }
    return Outcome(**(values | changes))


class _Run:
    """What the memory asks a run."""

    def __init__(self) -> None:
        self.request = request()
        self.decision = decision()
        self.principal = type("Caller", (), {"scope": Scope("acme")})
        self.request_id = "r"
        self.cache_headers: dict[str, str] = {}
        self.saved_device_ns: int | None = None


@pytest.mark.parametrize(
    ("answered", "ended", "kept"),
    [
        (ANSWER, outcome(), 1),
        (ANSWER, outcome(status="cut"), 0),
        (ANSWER, outcome(status="cancelled"), 0),
        (ANSWER, outcome(attempts=[]), 0),
        (ANSWER, outcome(decision=decision(max_output_tokens=5)), 0),
        (ANSWER | {"error": {"message": "half"}}, outcome(), 0),
        (ANSWER | {"choices": []}, outcome(), 0),
        ({"choices": [CHOICE | {"finish_reason": "tool_calls"}]}, outcome(), 0),
        ({"choices": [CHOICE | {"finish_reason": None}]}, outcome(), 0),
        (
            {"choices": [CHOICE | {"message": {"content": "a", "tool_calls": [{}]}}]},
            outcome(),
            0,
        ),
        ({"choices": [CHOICE | {"message": {"content": ""}}]}, outcome(), 0),
        ({"choices": [CHOICE | {"message": {"content": "x" * 300_000}}]}, outcome(), 0),
    ],
)
async def test_only_whole_answers_are_learnt(answered: Any, ended: Outcome, kept: int, tmp_path: Any) -> None:
    """Once the request has ended well; and whatever became of it, nothing of it stays in memory."""
    shelf = SqliteShelf(tmp_path / "shelf.db", max_bytes=10**7)
    places = Places(b"s" * 32, partition="organisation", similar=False)
    cache = ResponseCache(shelf, places, DEFAULT, SystemClock())
    memory, run = AnswerMemory(cache, SystemClock()), _Run()
    assert await memory.recall(run) is None  # type: ignore[arg-type]
    body = json.dumps(answered).encode()
    memory.watch(run, PlainReply(body, None, True, 1, 1))  # type: ignore[arg-type]
    memory.learn(ended)
    assert memory._recordings == {}
    jobs = [cache._waiting.get_nowait() for _ in range(cache._waiting.qsize())]
    await cache._put(jobs)
    assert (await shelf.holdings(None)).entries == kept
    await shelf.aclose()
