"""Every surface on a real socket in front of real llama.cpp: what comes back, and what it costs."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ENDLESS, House

HELLO = [{"role": "user", "content": "Hello there"}]
TENANT = "surfaces.team"


@pytest.fixture
async def http(place: House) -> AsyncIterator[httpx.AsyncClient]:
    """A tenant's client."""
    async with place.http(place.key(TENANT)) as client:
        yield client


def events_of(text: str) -> list[dict[str, Any]]:
    """Return the documents of a stream's events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


async def charged_for(place: House, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    """Return the answer to a request, and the tokens that it cost; nothing stays held."""
    async with place.http() as owner:
        before = (await owner.get(f"/api/v1/budgets/{TENANT}/status")).json()["rows"][0]["used"]
        answer = await http.post(path, json=body)
        after = (await owner.get(f"/api/v1/budgets/{TENANT}/status")).json()["rows"][0]
    assert answer.status_code == 200, answer.text
    assert after["held"] == 0
    return answer, after["used"] - before


@pytest.mark.parametrize("stream", [False, True])
async def test_completions(place: House, http: httpx.AsyncClient, stream: bool) -> None:
    """Text goes on without a template; the engine's usage is charged."""
    body = {"prompt": "Once upon", "max_tokens": 5, "stream": stream, **ENDLESS}
    answer, charged = await charged_for(place, http, "/v1/completions", body)
    assert answer.headers["x-trivet-tier"] == "light"
    documents = events_of(answer.text) if stream else [answer.json()]
    assert "".join(each["choices"][0]["text"] for each in documents)
    assert documents[-1]["choices"][0]["finish_reason"] == "length"
    assert documents[-1]["usage"]["total_tokens"] == charged
    assert answer.text.endswith("data: [DONE]\n\n") is stream


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts(place: House, http: httpx.AsyncClient, stream: bool) -> None:
    """Two prompts with two choices are four answers, of which llama.cpp counts one: a ceiling is charged."""
    body = {"prompt": ["Once upon", "A b c"], "n": 2, "max_tokens": 3, "stream": stream, **ENDLESS}
    answer, charged = await charged_for(place, http, "/v1/completions", body)
    documents = events_of(answer.text) if stream else [answer.json()]
    assert {choice["index"] for each in documents for choice in each["choices"]} == {0, 1, 2, 3}
    assert charged >= 4 * 3 + 2 * 2
    assert "null" not in [line.removeprefix("data: ") for line in answer.text.splitlines()]


async def test_embeddings(place: House, http: httpx.AsyncClient) -> None:
    """`auto` goes to the deployment that makes vectors, and the prompt's tokens are charged."""
    body = {"input": ["Hello there", "and good bye"]}
    answer, charged = await charged_for(place, http, "/v1/embeddings", body)
    assert answer.headers["x-trivet-model"] == "tiny-vectors"
    assert [len(each["embedding"]) for each in answer.json()["data"]] == [256, 256]
    assert charged == answer.json()["usage"]["prompt_tokens"] > 0


async def test_vectors_and_words_are_kept_apart(http: httpx.AsyncClient) -> None:
    """Chat never goes where vectors are made, nor a text for a vector where words are."""
    chat = await http.post("/v1/chat/completions", json={"model": "vectors", "messages": HELLO})
    assert (chat.status_code, chat.json()["error"]["code"]) == (400, "no_candidate")
    assert "embeddings only" in chat.json()["error"]["message"]
    tier = await http.post("/v1/chat/completions", json={"model": "standard", "messages": HELLO})
    assert tier.headers["x-trivet-tier"] in ("heavy", "light")
    text = await http.post("/v1/embeddings", json={"model": "tiny-heavy", "input": "Hello"})
    assert (text.status_code, text.json()["error"]["code"]) == (400, "no_candidate")
    other = await http.post("/v1/embeddings", json={"model": "light", "input": "Hello"})
    assert other.headers["x-trivet-model"] == "tiny-vectors"


@pytest.mark.parametrize("stream", [False, True])
async def test_responses(place: House, http: httpx.AsyncClient, stream: bool) -> None:
    """OpenAI's responses; a stream's last event is whole and tells the usage."""
    body = {"input": "Hello there", "max_output_tokens": 5, "stream": stream, **ENDLESS}
    answer, charged = await charged_for(place, http, "/v1/responses", body)
    whole = events_of(answer.text)[-1]["response"] if stream else answer.json()
    assert whole["output"][-1]["content"][0]["text"]
    assert (whole["usage"]["total_tokens"], whole["usage"]["output_tokens"]) == (charged, 5)


@pytest.mark.parametrize("stream", [False, True])
async def test_messages(place: House, http: httpx.AsyncClient, stream: bool) -> None:
    """Anthropic's messages; cached tokens are tokens of the prompt."""
    body = {"messages": HELLO, "system": "Be brief.", "max_tokens": 5, "stream": stream, **ENDLESS}
    answer, charged = await charged_for(place, http, "/v1/messages", body)
    if stream:
        events = events_of(answer.text)
        assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
        assert sum(each["type"] == "message_stop" for each in events) == 1
        usage = {**events[0]["message"]["usage"], **events[-2]["usage"]}
    else:
        assert answer.json()["content"][0]["text"]
        usage = answer.json()["usage"]
    assert charged == usage["input_tokens"] + usage["cache_read_input_tokens"] + 5


async def test_tokens(place: House, http: httpx.AsyncClient) -> None:
    """Exact tokens of the model, for nothing: a request is counted, no token is charged."""
    plain, charged = await charged_for(place, http, "/tokenize", {"prompt": "Hello there"})
    assert (len(plain.json()["tokens"]), charged) == (plain.json()["count"], 0)
    again, _ = await charged_for(place, http, "/tokenize", {"content": "Hello there"})
    assert again.json() == plain.json()
    talk, charged = await charged_for(place, http, "/tokenize", {"messages": HELLO})
    count, _ = await charged_for(place, http, "/v1/messages/count_tokens", {"messages": HELLO})
    assert talk.json()["count"] == count.json()["input_tokens"] > plain.json()["count"]
    chat = {"messages": HELLO, "max_tokens": 1}
    used = (await http.post("/v1/chat/completions", json=chat)).json()["usage"]["prompt_tokens"]
    assert used == count.json()["input_tokens"]


async def test_every_surface_is_a_usage_record(place: House, http: httpx.AsyncClient) -> None:
    """What costs nothing is counted all the same."""

    async def requests() -> int:
        return sum(row["requests"] for row in (await http.get("/api/v1/usage")).json()["rows"])

    before = await requests()
    await http.post("/tokenize", json={"prompt": "Hello there"})
    await http.post("/v1/embeddings", json={"input": "Hello there"})
    assert await requests() == before + 2
