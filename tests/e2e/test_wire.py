"""The OpenAI wire, through the unmodified `openai` client, on real engines."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.e2e.conftest import ENDLESS, House

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
HEADERS = (
    "x-request-id",
    "x-trivet-decision-id",
    "x-trivet-tier",
    "x-trivet-model",
    "x-trivet-complexity",
    "x-trivet-reason",
    "x-trivet-attempts",
    "x-trivet-budget-remaining",
)


@pytest.fixture(scope="module")
def api_key(house: House) -> str:
    """A tenant's key."""
    return house.key("wire.team.user")


@pytest.fixture
async def client(house: House, api_key: str) -> Any:
    """The async OpenAI client."""
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=api_key, max_retries=0) as found:
        yield found


async def test_plain(client: openai.AsyncOpenAI) -> None:
    """A plain completion has text, usage and the headers that explain it."""
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, max_tokens=8, **ENDLESS
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert [name for name in HEADERS if name not in raw.headers] == []
    assert (raw.headers["x-trivet-tier"], raw.headers["x-trivet-attempts"]) == ("light", "1")


async def test_sync_client(house: House, api_key: str) -> None:
    """The synchronous client works as well, plain and streamed."""

    def talk() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{house.url}/v1", api_key=api_key, max_retries=0) as client:
            plain = client.chat.completions.create(model="light", messages=HELLO, max_tokens=8, **ENDLESS)
            stream = client.chat.completions.create(
                model="light", messages=HELLO, max_tokens=8, stream=True, **ENDLESS
            )
            return plain.choices[0].message.content or "", "".join(
                c.choices[0].delta.content or "" for c in stream
            )

    plain, streamed = await asyncio.to_thread(talk)
    assert plain
    assert streamed


async def test_stream_without_usage(client: openai.AsyncOpenAI) -> None:
    """A stream ends with a finish reason; the usage chunk stays away unless asked for."""
    stream = await client.chat.completions.create(model="light", messages=HELLO, max_tokens=8, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert [chunk for chunk in chunks if chunk.usage is not None or not chunk.choices] == []


async def test_stream_with_usage(client: openai.AsyncOpenAI) -> None:
    """A caller that asks for usage gets the usage chunk last."""
    stream = await client.chat.completions.create(
        model="light", messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 8


async def test_seed_and_stop_pass_through(client: openai.AsyncOpenAI) -> None:
    """The same seed gives the same text."""
    texts = []
    for _ in range(2):
        answer = await client.chat.completions.create(
            model="light", messages=HELLO, max_tokens=12, seed=7, temperature=1.0
        )
        texts.append(answer.choices[0].message.content)
    assert texts[0] == texts[1]


async def test_n_choices(client: openai.AsyncOpenAI) -> None:
    """`n` asks for several choices."""
    answer = await client.chat.completions.create(model="light", messages=HELLO, max_tokens=6, n=2)
    assert len(answer.choices) == 2


async def test_logprobs(client: openai.AsyncOpenAI) -> None:
    """Log-probabilities come through."""
    answer = await client.chat.completions.create(
        model="light", messages=HELLO, max_tokens=4, logprobs=True, top_logprobs=2, **ENDLESS
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert len(logprobs.content[0].top_logprobs) == 2


async def test_json_schema(client: openai.AsyncOpenAI) -> None:
    """A JSON schema constrains even a model that writes nonsense."""
    schema: Any = {
        "type": "json_schema",
        "json_schema": {
            "name": "answer",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"ok": {"type": "boolean"}},
                "required": ["ok"],
                "additionalProperties": False,
            },
        },
    }
    answer = await client.chat.completions.create(
        model="light", messages=HELLO, max_tokens=64, response_format=schema, seed=1
    )
    assert set(json.loads(answer.choices[0].message.content or "")) == {"ok"}


async def test_tools_pass_through(client: openai.AsyncOpenAI) -> None:
    """Tools are accepted and forwarded."""
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Weather of a city.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
    ]
    answer = await client.chat.completions.create(model="light", messages=HELLO, max_tokens=16, tools=tools)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


async def test_models(client: openai.AsyncOpenAI) -> None:
    """The list has `auto`, the tiers and the deployments."""
    names = [model.id async for model in client.models.list()]
    assert names == [
        "auto",
        "light",
        "standard",
        "heavy",
        *(f"llamacpp/tiny-{t}" for t in ("light", "standard", "heavy")),
    ]


@pytest.mark.parametrize(
    ("model", "tier"), [("light", "light"), ("heavy", "heavy"), ("llamacpp/tiny-standard", "standard")]
)
async def test_model_names(client: openai.AsyncOpenAI, model: str, tier: str) -> None:
    """A tier's name and a deployment's name are honoured."""
    raw = await client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=4)
    assert raw.headers["x-trivet-tier"] == tier


@pytest.mark.parametrize(
    ("hints", "tier"),
    [
        ({"x-trivet-min-tier": "standard"}, "standard"),
        ({"x-trivet-task-type": "fix_bug"}, "standard"),
        ({"x-trivet-min-tier": "heavy"}, "heavy"),
        ({}, "light"),
    ],
)
async def test_hints_as_headers(client: openai.AsyncOpenAI, hints: dict[str, str], tier: str) -> None:
    """Hints in headers move the decision."""
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, max_tokens=4, extra_headers=hints
    )
    assert raw.headers["x-trivet-tier"] == tier


async def test_hints_as_metadata(client: openai.AsyncOpenAI) -> None:
    """Hints in `metadata` move the decision, and do not reach the engine."""
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, max_tokens=4, metadata={"min_tier": "heavy"}
    )
    assert raw.headers["x-trivet-tier"] == "heavy"


@pytest.mark.parametrize(
    ("key", "code"),
    [("tvt_wrong", "invalid_api_key"), ("", "api_key_missing"), ("sk-123", "invalid_api_key")],
)
async def test_keys(house: House, key: str, code: str) -> None:
    """A wrong key and a missing key answer 401 with what to do."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with house.http() as http:
        http.headers.pop("authorization")
        answer = await http.post("/v1/chat/completions", json={"messages": HELLO}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)


@pytest.mark.parametrize(
    ("content", "code", "status"),
    [
        (b"", "invalid_request", 400),
        (b"{", "invalid_request", 400),
        (b"[]", "invalid_request", 400),
        (b'{"model": "auto"}', "invalid_request", 400),
        (b'{"model": "auto", "messages": []}', "invalid_request", 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": NaN}', "invalid_request", 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "messages": []}', "invalid_request", 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -1}', "invalid_request", 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "model": "lihgt"}', "model_not_found", 404),
        (b"\xff\xfe", "invalid_request", 400),
        (b'{"a":' * 5000, "invalid_request", 400),
    ],
)
async def test_bad_bodies(house: House, content: bytes, code: str, status: int) -> None:
    """Each bad body gets a clear error in OpenAI's shape, and nothing is held or charged."""
    key = house.key("badbody")
    async with house.http(key) as http:
        answer = await http.post("/v1/chat/completions", content=content)
        error = answer.json()["error"]
        rows = (await http.get("/api/v1/budgets/badbody/status")).json()["rows"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code", "trivet"}
    assert [(row["used"], row["held"]) for row in rows] == [(0, 0)] * len(rows)


async def test_unknown_model_names_a_near_one(house: House) -> None:
    """A misspelt model is answered with the near name."""
    async with house.http() as http:
        answer = await http.post("/v1/chat/completions", json={"model": "lihgt", "messages": HELLO})
    assert "light" in answer.json()["error"]["message"]


async def test_oversize_body(house: House) -> None:
    """A body beyond the limit is refused."""
    async with house.http() as http:
        answer = await http.post("/v1/chat/completions", content=b" " * (2 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_prompt_larger_than_every_context(house: House) -> None:
    """A prompt that fits nowhere is refused by name, and costs nothing."""
    key = house.key("large")
    messages = [{"role": "user", "content": "word " * 4000}]
    async with house.http(key) as http:
        answer = await http.post("/v1/chat/completions", json={"model": "auto", "messages": messages})
        rows = (await http.get("/api/v1/budgets/large/status")).json()["rows"]
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert [(row["used"], row["held"]) for row in rows] == [(0, 0)] * len(rows)


async def test_limited_key(house: House) -> None:
    """A key limited to LIGHT is served there and refused elsewhere."""
    key = house.key("limited", tiers=("light",))
    async with house.http(key) as http:
        served = await http.post(
            "/v1/chat/completions", json={"model": "light", "messages": HELLO, "max_tokens": 4}
        )
        refused = await http.post(
            "/v1/chat/completions", json={"model": "heavy", "messages": HELLO, "max_tokens": 4}
        )
        models = (await http.get("/v1/models")).json()["data"]
    assert served.headers["x-trivet-tier"] == "light"
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert [model["id"] for model in models] == ["auto", "light", "llamacpp/tiny-light"]


async def test_tenant_cannot_act_for_another(house: House) -> None:
    """A tenant's scope header is refused; the owner's is obeyed."""
    tenant = house.key("acme.a")
    headers = {"x-trivet-scope": "globex"}
    body = {"model": "light", "messages": HELLO, "max_tokens": 4}
    async with house.http(tenant) as http:
        refused = await http.post("/v1/chat/completions", json=body, headers=headers)
    async with house.http() as http:
        served = await http.post("/v1/chat/completions", json=body, headers=headers)
        rows = (await http.get("/api/v1/budgets/globex/status")).json()["rows"]
    assert (refused.status_code, served.status_code) == (403, 200)
    assert rows[0]["used"] > 0


async def test_other_paths(house: House) -> None:
    """An unknown path and a wrong method answer in the same shape."""
    async with house.http() as http:
        missing = await http.get("/v1/nothing")
        slash = await http.post("/v1/chat/completions/", headers={"host": "elsewhere.test"}, json={})
        wrong = await http.get("/v1/chat/completions")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (slash.status_code, slash.json()["error"]["code"]) == (404, "not_found")
    assert wrong.status_code == 405


@pytest.mark.parametrize(("version", "field"), [("1.1", "Connection: close\r\n"), ("1.0", "")])
async def test_a_connection_that_is_not_to_be_kept(house: House, version: str, field: str) -> None:
    """The answer comes whole, in one piece with its head, and then the connection ends."""
    body = json.dumps({"model": "light", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2})
    host, _, port = house.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/chat/completions HTTP/{version}\r\nHost: {host}\r\n{field}"
        f"Authorization: Bearer {house.trivet.owner_token}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    head, _, answer = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "http/1.1 200 ok"
    assert "connection: close" in lines
    assert f"content-length: {len(answer)}" in lines
    assert json.loads(answer)["choices"]
    for name in ("date", "x-request-id", "x-trivet-tier", "cache-control"):
        assert sum(line.startswith(f"{name}: ") for line in lines) == 1, name
