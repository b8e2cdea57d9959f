"""A whole Trivet in front of a real vLLM, through the unmodified `openai` client."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import House, serving, settings_for

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
async def house(
    vllm_url: str, vllm_model: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """LIGHT goes to vLLM by relay, STANDARD to the same vLLM through LiteLLM, HEAVY to nobody."""
    relay = {"name": "by-relay", "model": f"vllm/{vllm_model}", "url": vllm_url}
    litellm = {"name": "by-litellm", "model": f"vllm/{vllm_model}", "url": vllm_url, "transport": "litellm"}
    gone = {"name": "gone", "model": "vllm/gone", "url": "http://127.0.0.1:9"}
    settings = settings_for(
        tmp_path_factory.mktemp("served"), {"light": [relay], "standard": [litellm], "heavy": [gone]}
    )
    async with serving(settings) as found:
        yield found


@pytest.fixture
async def client(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    """The async client with a tenant's key."""
    key = house.key("vllm.team")
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=key, max_retries=0) as found:
        yield found


@pytest.mark.parametrize("model", ["by-relay", "by-litellm"])
async def test_plain_and_charged(house: House, client: openai.AsyncOpenAI, model: str) -> None:
    """A plain answer has vLLM's usage, and exactly that is charged."""
    async with house.http() as http:
        before = (await http.get("/api/v1/budgets/vllm.team/status")).json()["rows"][0]["used"]
        answer = await client.chat.completions.create(model=model, messages=HELLO, max_tokens=6)
        after = (await http.get("/api/v1/budgets/vllm.team/status")).json()["rows"][0]
    assert answer.usage is not None
    assert (after["used"] - before, after["held"]) == (answer.usage.total_tokens, 0)


@pytest.mark.parametrize("model", ["by-relay", "by-litellm"])
async def test_streamed_with_logprobs(client: openai.AsyncOpenAI, model: str) -> None:
    """A stream carries log-probabilities and ends with a finish reason."""
    stream = await client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=4, stream=True, logprobs=True, top_logprobs=2
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert any(chunk.choices[0].logprobs and chunk.choices[0].logprobs.content for chunk in chunks)


@pytest.mark.parametrize("model", ["by-relay", "by-litellm"])
async def test_context_overflow(client: openai.AsyncOpenAI, model: str) -> None:
    """A prompt beyond the window is refused by its name and costs nothing."""
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "word " * 300}], max_tokens=6
        )
    assert refused.value.code == "context_length_exceeded"


async def test_the_windows_of_the_engine_are_known(house: House) -> None:
    """The engine's own window has replaced the default."""
    windows = {report["name"]: report["context_tokens"] for report in house.trivet.fleet.report()}
    assert (windows["by-relay"], windows["by-litellm"]) == (256, 256)


async def test_dead_heavy_falls_back(client: openai.AsyncOpenAI) -> None:
    """With nobody at HEAVY the request is served below it, and says so."""
    raw = await client.chat.completions.with_raw_response.create(model="heavy", messages=HELLO, max_tokens=4)
    assert raw.headers["x-trivet-tier"] in ("light", "standard")


async def test_twenty_at_once(client: openai.AsyncOpenAI) -> None:
    """More requests than vLLM's queue takes: each is answered by one way or the other, or told busy."""

    async def ask(number: int) -> str:
        try:
            answer = await client.chat.completions.create(
                model="light", messages=HELLO, max_tokens=8 + number % 5
            )
        except openai.APIStatusError as error:
            return str(error.code)
        return "ok" if answer.choices[0].message.content else "empty"

    assert set(await asyncio.gather(*(ask(number) for number in range(20)))) <= {"ok", "upstream_busy"}
