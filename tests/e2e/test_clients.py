"""Clients that nobody changed for Trivet: their base address and their key are all that is set."""

import asyncio
import json
import os
import subprocess
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.e2e.conftest import ENDLESS, House

TALK: Any = [{"role": "user", "content": "Hello there"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ENGINES = ["light", "by-litellm"]
"""An engine that speaks each protocol itself, and one that is spoken to in translation."""


class Verdict(BaseModel):
    """What structured output is made to be."""

    ok: bool


SCHEMA = Verdict.model_json_schema() | {"additionalProperties": False}


@pytest.fixture(scope="module")
def key(place: House) -> str:
    """A tenant's key."""
    return place.key("clients.team.user")


async def test_openai_sync(place: House, key: str) -> None:
    """Plain, streamed, with a tool, and with structured output."""

    def talk() -> tuple[Any, ...]:
        with openai.OpenAI(base_url=f"{place.url}/v1", api_key=key, max_retries=0) as client:
            plain = client.chat.completions.create(model="auto", messages=TALK, max_tokens=6, **ENDLESS)
            stream = client.chat.completions.create(
                model="auto", messages=TALK, max_tokens=6, stream=True, **ENDLESS
            )
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            tool = client.chat.completions.create(model="auto", messages=TALK, max_tokens=6, tools=[TOOL])
            parsed = client.chat.completions.parse(
                model="auto", messages=TALK, max_tokens=64, response_format=Verdict
            )
            return plain, streamed, tool, parsed

    plain, streamed, tool, parsed = await asyncio.to_thread(talk)
    assert plain.choices[0].message.content
    assert streamed
    assert tool.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert isinstance(parsed.choices[0].message.parsed, Verdict)


async def test_openai_async(place: House, key: str) -> None:
    """The async client, its streaming helper, and the models that it may name."""
    async with openai.AsyncOpenAI(base_url=f"{place.url}/v1", api_key=key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="auto", messages=TALK, max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        models = [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="nope", messages=TALK)
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].usage is not None
    assert {"auto", "light", "vectors"} <= set(models)
    assert unknown.value.code == "model_not_found"


async def test_openai_completions_and_embeddings(place: House, key: str) -> None:
    """The former completions, and vectors, which the client asks for packed and unpacks."""
    async with openai.AsyncOpenAI(base_url=f"{place.url}/v1", api_key=key, max_retries=0) as client:
        plain = await client.completions.create(model="auto", prompt="Once", max_tokens=4, **ENDLESS)
        stream = await client.completions.create(
            model="auto", prompt="Once", max_tokens=4, stream=True, **ENDLESS
        )
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
        vectors = await client.embeddings.create(model="auto", input=["Hello", "there"])
    assert plain.choices[0].text
    assert streamed
    assert [len(each.embedding) for each in vectors.data] == [256, 256]


@pytest.mark.parametrize("model", ENGINES)
async def test_openai_responses(place: House, key: str, model: str) -> None:
    """Responses, whole and through the client's own accumulation of events, and structured output."""
    async with openai.AsyncOpenAI(base_url=f"{place.url}/v1", api_key=key, max_retries=0) as client:
        plain = await client.responses.create(
            model=model, input="Hello there", max_output_tokens=6, extra_body=ENDLESS
        )
        async with client.responses.stream(
            model=model, input="Hello there", max_output_tokens=6, extra_body=ENDLESS
        ) as stream:
            events = [event async for event in stream]
        shaped = await client.responses.parse(
            model=model, input="Hello there", max_output_tokens=64, text_format=Verdict
        )
    assert plain.output_text
    assert plain.usage is not None
    assert plain.usage.output_tokens == 6
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    words = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert words == events[-1].response.output_text != ""
    assert isinstance(shaped.output_parsed, Verdict)


@pytest.mark.parametrize("model", ENGINES)
async def test_anthropic(place: House, key: str, model: str) -> None:
    """Messages, whole and through the client's own accumulation of events; a refusal is its own error."""
    async with anthropic.AsyncAnthropic(base_url=place.url, api_key=key, max_retries=0) as client:
        plain = await client.messages.create(
            model=model, max_tokens=6, messages=TALK, system="Be brief.", extra_body=ENDLESS
        )
        async with client.messages.stream(
            model=model, max_tokens=6, messages=TALK, extra_body=ENDLESS
        ) as stream:
            words = "".join([text async for text in stream.text_stream])
            final = await stream.get_final_message()
        shaped = await client.messages.create(
            model=model,
            max_tokens=64,
            messages=TALK,
            output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        )
        with pytest.raises(anthropic.BadRequestError) as refused:
            await client.messages.create(model=model, max_tokens=6, messages=[])
    assert plain.content[0].type == "text"
    assert plain.content[0].text
    assert (plain.stop_reason, plain.usage.output_tokens) == ("max_tokens", 6)
    assert final.content[0].type == "text"
    assert final.content[0].text == words != ""
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 6)
    assert shaped.content[0].type == "text"
    Verdict.model_validate_json(shaped.content[0].text)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["error"]["type"] == "invalid_request_error"


async def test_anthropic_counts_tokens(place: House, key: str) -> None:
    """The count is what the message will be charged for its prompt; the models are those of the key."""
    async with anthropic.AsyncAnthropic(base_url=place.url, api_key=key, max_retries=0) as client:
        counted = await client.messages.count_tokens(model="auto", messages=TALK)
        message = await client.messages.create(model="auto", max_tokens=1, messages=TALK)
        models = [model.id async for model in client.models.list()]
    read = message.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == message.usage.input_tokens + read
    assert {"auto", "light", "heavy"} <= set(models)


async def test_langchain(place: House, key: str) -> None:
    """ChatOpenAI: invoked, streamed, with a tool bound, and structured."""
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    async with httpx.AsyncClient(trust_env=False) as http:  # its own would never be closed
        model = ChatOpenAI(
            model="auto", base_url=f"{place.url}/v1", api_key=SecretStr(key), http_async_client=http
        )
        answer = await model.ainvoke("Hello there", max_tokens=6, extra_body=ENDLESS)
        streamed = [chunk async for chunk in model.astream("Hello there", extra_body=ENDLESS)]
        tool = await model.bind_tools([TOOL]).ainvoke("Hello there")
        shaped = await model.with_structured_output(Verdict, method="json_schema").ainvoke("Hello there")
    assert answer.content
    assert "".join(str(chunk.content) for chunk in streamed)
    assert tool.response_metadata["finish_reason"] in ("stop", "length", "tool_calls")
    assert isinstance(shaped, Verdict)


async def test_pydantic_ai(place: House, key: str) -> None:
    """An agent that answers in words, streamed too, and one that must answer in a shape."""
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async with httpx.AsyncClient(trust_env=False) as http:
        provider = OpenAIProvider(base_url=f"{place.url}/v1", api_key=key, http_client=http)
        model = OpenAIChatModel("auto", provider=provider)
        agent = Agent(model, model_settings={"max_tokens": 64, "extra_body": ENDLESS})
        answer = await agent.run("Hello there")
        async with agent.run_stream("Hello there") as stream:
            streamed = await stream.get_output()
        shaping = Agent(model, output_type=NativeOutput(Verdict), model_settings={"max_tokens": 64})
        shaped = await shaping.run("Hello there")
    assert answer.output
    assert streamed
    assert isinstance(shaped.output, Verdict)
    assert answer.usage.output_tokens == 64


async def test_litellm(place: House, key: str) -> None:
    """LiteLLM itself as a client: chat, streamed, embeddings, and its Anthropic side."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm
    from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

    way: Any = {"api_base": f"{place.url}/v1", "api_key": key, "max_retries": 0}
    answer = await litellm.acompletion(model="openai/auto", messages=TALK, max_tokens=6, **way)
    stream = await litellm.acompletion(
        model="openai/auto", messages=TALK, max_tokens=6, stream=True, extra_body=ENDLESS, **way
    )
    streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    vectors = await litellm.aembedding(model="openai/auto", input=["Hello"], **way)
    message = await litellm.acompletion(
        model="anthropic/light", messages=TALK, max_tokens=6, api_base=place.url, api_key=key
    )
    await close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()
    assert answer.usage.total_tokens > 0
    assert streamed
    assert len(vectors.data[0]["embedding"]) == 256
    assert message.choices[0].finish_reason in ("stop", "length")


async def test_curl(place: House, key: str) -> None:
    """The two commands of the manual: a whole answer, and a stream as it comes."""

    def curl(body: dict[str, Any]) -> str:
        command = ["curl", "-sSN", "--fail-with-body", f"{place.url}/v1/chat/completions"]
        command += ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
        done = subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, text=True, check=True)
        return done.stdout

    body = {"model": "auto", "messages": TALK, "max_tokens": 6, **ENDLESS}
    plain = json.loads(await asyncio.to_thread(curl, body))
    streamed = await asyncio.to_thread(curl, body | {"stream": True})
    assert plain["choices"][0]["message"]["content"]
    assert streamed.startswith("data: {")
    assert streamed.endswith("data: [DONE]\n\n")
