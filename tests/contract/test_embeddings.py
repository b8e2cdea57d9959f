"""Embeddings through every way to an engine, each against the same real llama.cpp."""

import base64
import json
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.contract.calls import PATIENT, deployment_of
from tests.doubles.programs import Programs
from trivet.domain.errors import ContextOverflow, EngineBroken, EngineError, EngineIncapable
from trivet.domain.outcomes import Usage
from trivet.domain.surfaces import Surface
from trivet.domain.tiers import EngineKind, TransportKind
from trivet.engines.connect import open_transport
from trivet.engines.protocol import EngineCall, Transport

WAYS = ["relay", "litellm", "ollama"]


@pytest.fixture(scope="module")
def vectors_url(programs: Programs, tiny_models: dict[str, Any]) -> str:
    """A llama.cpp server that makes vectors of at most 128 tokens."""
    return programs.start_llama(
        tiny_models["light"], alias="tiny", context_tokens=128, slots=2, vectors=True
    ).url


@pytest.fixture(params=WAYS)
async def way(
    request: pytest.FixtureRequest, programs: Programs, vectors_url: str, session: aiohttp.ClientSession
) -> AsyncIterator[Transport]:
    """Give each way in turn: the relay, LiteLLM, and LiteLLM to Ollama's own API."""
    if request.param == "ollama":
        url = programs.start("tests.doubles.ollama_standin", "--backend", vectors_url, "--model", "tiny").url
        deployment = deployment_of(url, "tiny", engine="ollama", transport="litellm")
    else:
        deployment = deployment_of(vectors_url, "tiny", engine="llamacpp", transport=request.param)
    opened = open_transport(replace(deployment, context_tokens=128), session=session, api_key=None)
    yield opened
    await opened.aclose()


def wanted(told: Any, **fields: Any) -> EngineCall:
    """Return a call for vectors."""
    body = {"model": "tiny", "input": told, **fields}
    return EngineCall(body=body, stream=False, limits=PATIENT, request_id="t", surface=Surface.EMBEDDINGS)


async def test_vectors(way: Transport) -> None:
    """One vector for each text, the engine's own count, and the form that was asked for."""
    reply = await way.chat(wanted(["hello there", "hi"]))
    document = json.loads(reply.body or b"")
    assert [len(each["embedding"]) for each in document["data"]] == [64, 64]
    assert (document["model"], document["object"]) == ("tiny", "list")
    assert isinstance(reply.usage, Usage)
    assert reply.usage.prompt_tokens == document["usage"]["prompt_tokens"] > 2
    assert (reply.usage.completion_tokens, reply.content_events, reply.finished) == (0, 0, True)
    again = await way.chat(wanted(["hello there", "hi"], encoding_format="base64"))
    packed = json.loads(again.body or b"")
    vector = struct.unpack("<64f", base64.b64decode(packed["data"][0]["embedding"]))
    assert vector == pytest.approx(document["data"][0]["embedding"], abs=1e-6)


async def test_a_text_that_is_too_long_is_refused(way: Transport) -> None:
    """Nothing is cut silently, and the engine is not to blame."""
    with pytest.raises(EngineError) as refused:
        await way.chat(wanted("word " * 500))
    assert isinstance(refused.value, ContextOverflow)


async def test_an_engine_without_vectors_says_so(light_url: str, session: aiohttp.ClientSession) -> None:
    """llama.cpp that was not started for them answers 501, which is no fault of its health."""
    relay = open_transport(deployment_of(light_url, "tiny", engine="llamacpp"), session=session, api_key=None)
    with pytest.raises(EngineIncapable):
        await relay.chat(wanted("hello"))


@pytest.mark.parametrize(
    ("engine", "transport"), [("vllm", "relay"), ("vllm", "litellm"), ("ollama", "litellm")]
)
async def test_an_engine_is_asked_once(
    session: aiohttp.ClientSession, engine: EngineKind, transport: TransportKind
) -> None:
    """Trying again is the chain's decision, whatever LiteLLM would do by itself."""
    asked: list[str] = []

    async def fail(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"error": {"message": "broke"}}, status=500)

    application = web.Application()
    application.router.add_post("/{path:.*}", fail)
    server = TestServer(application)
    async with server:
        url = str(server.make_url("/")).rstrip("/")
        deployment = deployment_of(url, "tiny", engine=engine, transport=transport)
        opened = open_transport(deployment, session=session, api_key=None)
        with pytest.raises(EngineBroken):
            await opened.chat(wanted("hello"))
        await opened.aclose()
    assert asked == ["/api/embed" if engine == "ollama" else "/v1/embeddings"]
