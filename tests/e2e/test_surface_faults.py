"""What clients of each protocol see when engines fail: another engine first, an honest end later."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.conftest import House, serving, settings_for

TALK: Any = [{"role": "user", "content": "Hello there"}]
TENANT = "faults.team"


@pytest.fixture(scope="module")
async def house(
    fault_server: str, heavy_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """LIGHT is nobody, STANDARD an engine that fails as its model's name says, HEAVY a real one."""
    faults = [
        {"name": fault, "model": f"vllm/{fault}", "url": fault_server}
        for fault in ("cut", "503", "error-amid", "ok", "drip")
    ]
    gone = {"name": "gone", "model": "vllm/gone", "url": "http://127.0.0.1:9"}
    real = {"name": "real", "model": "llamacpp/tiny-heavy", "url": heavy_url}
    deployments: dict[str, list[dict[str, Any]]] = {"light": [gone], "standard": faults, "heavy": [real]}
    settings = settings_for(tmp_path_factory.mktemp("faults"), deployments, execution={"max_attempts": 8})
    async with serving(settings) as found:
        yield found


@pytest.fixture
def key(house: House) -> str:
    """A tenant's key."""
    return house.key(TENANT)


async def counted(house: House) -> dict[str, int]:
    """Return what of the tenant's tokens is used, and held."""
    async with house.http() as owner:
        row: dict[str, int] = (await owner.get(f"/api/v1/budgets/{TENANT}/status")).json()["rows"][0]
    return row


async def held(house: House) -> int:
    """Return what is held for the tenant."""
    return (await counted(house))["held"]


async def used(house: House) -> int:
    """Return what the tenant was charged so far; nothing may be held."""
    row = await counted(house)
    assert row["held"] == 0
    return row["used"]


@pytest.mark.parametrize("fault", ["cut", "error-amid"])
async def test_a_broken_stream_of_messages_raises(house: House, key: str, fault: str) -> None:
    """Anthropic's client raises after what came; the tenant is charged for that, and no more is held."""
    before, words = await used(house), ""

    async def read(client: anthropic.AsyncAnthropic) -> None:
        nonlocal words
        async with client.messages.stream(model=fault, max_tokens=64, messages=TALK) as stream:
            async for text in stream.text_stream:
                words += text

    async with anthropic.AsyncAnthropic(base_url=house.url, api_key=key, max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError) as broken:
            await read(client)
    assert words
    assert isinstance(broken.value.body, dict)
    assert broken.value.body["error"]["type"] == "api_error"
    assert await used(house) > before


@pytest.mark.parametrize("fault", ["cut", "error-amid"])
async def test_a_broken_stream_of_a_response_raises(house: House, key: str, fault: str) -> None:
    """OpenAI's client raises, and has seen no event that says that the response is complete."""
    before = await used(house)
    seen: set[str] = set()

    async def read(client: openai.AsyncOpenAI) -> None:
        async for event in await client.responses.create(model=fault, input="Hi", stream=True):
            seen.add(event.type)

    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=key, max_retries=0) as client:
        with pytest.raises(openai.APIError) as broken:
            await read(client)
    assert "response.output_text.delta" in seen
    assert not {"response.completed", "response.incomplete"} & seen
    assert broken.value.code is not None
    assert await used(house) > before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": TALK, "max_tokens": 4}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 4}),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 4}),
        ("/tokenize", {"prompt": "Hi"}),
        ("/v1/messages/count_tokens", {"messages": TALK}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_another_engine_answers(
    house: House, key: str, path: str, body: dict[str, Any], stream: bool
) -> None:
    """Where an engine is busy or lacks the route, another candidate is asked in its own way."""
    async with house.http(key) as http:
        answer = await http.post(path, json={"model": "light", **body, "stream": stream})
    assert answer.status_code == 200, answer.text
    tried = answer.headers["x-trivet-attempt-path"]
    assert tried.endswith(":ok")
    assert path in ("/v1/messages", "/v1/responses") or ":incapable, " in tried


async def test_no_vectors_no_answer(house: House, key: str) -> None:
    """Nobody makes vectors here, and the refusal says so in OpenAI's shape."""
    async with httpx.AsyncClient(base_url=house.url, headers={"x-api-key": key}, trust_env=False) as http:
        answer = await http.post("/v1/embeddings", json={"input": "Hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_candidate")
    assert "makes no embeddings" in answer.json()["error"]["message"]


async def test_a_missing_route_closes_no_way(house: House, key: str) -> None:
    """Servers without the route for plain completions go on answering chats: no breaker opens."""
    async with house.http(key) as http:
        for _ in range(6):
            await http.post("/v1/completions", json={"model": "ok", "prompt": "Hi", "max_tokens": 4})
        chat = await http.post("/v1/chat/completions", json={"model": "ok", "messages": TALK})
    assert chat.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/messages", {"messages": TALK}), ("/v1/responses", {"input": "Hi"})]
)
async def test_a_client_that_leaves_is_charged_for_what_came(
    house: House, key: str, path: str, body: dict[str, Any]
) -> None:
    """The hold ends with the connection, and the bytes that came until then are charged."""
    before = await used(house)
    async with (
        house.http(key) as http,
        http.stream("POST", path, json={"model": "drip", "stream": True, **body}) as answer,
    ):
        async for line in answer.aiter_lines():
            if ".delta" in line or "_delta" in line:
                break
    for _ in range(500):
        if not await held(house):
            break
        await asyncio.sleep(0.02)
    assert before < await used(house) < before + 256
