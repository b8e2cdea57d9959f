"""Health probes: what they find, and that they never fail."""

import json

import aiohttp
import pytest

from tests.contract.calls import deployment_of
from tests.doubles.scripted import plain_answer, scripted
from trivet.domain.engine_states import EngineState
from trivet.domain.tiers import EngineKind
from trivet.engines.probe import probe
from trivet.engines.protocol import Health, ServedModel


async def test_llamacpp(session: aiohttp.ClientSession, light_url: str) -> None:
    """A real llama.cpp server is ready and says its model and the window of one slot."""
    found = await probe(
        deployment_of(light_url, "tiny-light", engine="llamacpp"), session=session, timeout_s=20
    )
    assert found == Health(EngineState.READY, models=(ServedModel("tiny-light", 2048),))
    assert found.ready


async def test_vllm_models(session: aiohttp.ClientSession, fault_server: str) -> None:
    """vLLM's max_model_len becomes the model's window."""
    found = await probe(deployment_of(fault_server, "ok", engine="vllm"), session=session, timeout_s=20)
    assert found.ready
    assert ServedModel("ok", 4096) in found.models


@pytest.mark.parametrize(
    ("engine", "answer", "state", "words"),
    [
        (
            "llamacpp",
            plain_answer(b'{"error":{"message":"Loading model","code":503}}', status="503 Busy"),
            "loading",
            "loading",
        ),
        ("vllm", plain_answer(b"", status="503 Busy"), "down", "restart"),
        ("openai", plain_answer(b"", status="401 No"), "down", "api_key"),
        ("openai", plain_answer(b"", status="404 No"), "ready", "does not list"),
        ("openai", plain_answer(b"", status="500 No"), "down", "500"),
        ("openai", plain_answer(b"<html>"), "down", "OpenAI-compatible"),
        ("openai", plain_answer(b'{"data":[1,{"id":2},{"id":"a","max_model_len":true}]}'), "ready", ""),
        ("openai", b"SSH-2.0\r\n", "down", "not HTTP"),
        ("openai", b"", "down", "closed the connection"),
        ("ollama", plain_answer(b"<html>"), "down", "Ollama"),
        ("ollama", plain_answer(b'{"version":"1"}'), "down", "/api/tags"),
    ],
)
async def test_answers(
    session: aiohttp.ClientSession, engine: EngineKind, answer: bytes, state: str, words: str
) -> None:
    """Whatever answers, the state is right and the sentence says what to do."""
    async with scripted(answer) as url:
        found = await probe(deployment_of(url, "m", engine=engine), session=session, timeout_s=20)
    assert found.state == state
    assert words in found.detail


@pytest.mark.parametrize(
    ("model", "names", "state"),
    [
        ("qwen2.5:7b", ["qwen2.5:7b"], "ready"),
        ("qwen2.5", ["qwen2.5:latest"], "ready"),
        ("Qwen2.5:7B", ["qwen2.5:7b"], "ready"),
        ("qwen2.5:7b", ["qwen2.5:72b"], "down"),
        ("qwen2.5:7b", [], "down"),
    ],
)
async def test_ollama_models(
    session: aiohttp.ClientSession, model: str, names: list[str], state: str
) -> None:
    """An Ollama without the model is down, and the detail is the command that mends it."""
    tags = {"version": "0.33.0", "models": [{"name": name} for name in names]}
    async with scripted(plain_answer(json.dumps(tags).encode())) as url:
        found = await probe(deployment_of(url, model, engine="ollama"), session=session, timeout_s=20)
    assert found.state == state
    assert (f"ollama pull {model}" in found.detail) == (state == "down")
    assert [served.name for served in found.models] == names


@pytest.mark.parametrize("engine", ["ollama", "vllm", "llamacpp", "openai"])
async def test_nobody_there(session: aiohttp.ClientSession, engine: EngineKind) -> None:
    """A refused connection is `down` with a hint how to start the engine."""
    found = await probe(
        deployment_of("http://127.0.0.1:9", "m", engine=engine), session=session, timeout_s=20
    )
    assert found.state == "down"
    assert "Start it" in found.detail


async def test_silence(session: aiohttp.ClientSession) -> None:
    """A server that does not answer is `down` after the timeout."""
    async with scripted(then_hold=True) as url:
        found = await probe(deployment_of(url, "m"), session=session, timeout_s=0.2)
    assert (found.state, "0.2 s" in found.detail) == ("down", True)


async def test_litellm_is_not_probed(session: aiohttp.ClientSession) -> None:
    """A LiteLLM deployment has no server of its own to ask."""
    assert (await probe(deployment_of(None, "m", engine="litellm"), session=session)).ready


@pytest.mark.parametrize("url", [None, "nonsense", "http://", "http://host:port"])
async def test_useless_urls(session: aiohttp.ClientSession, url: str | None) -> None:
    """A missing or malformed URL is `down`, not an exception."""
    found = await probe(deployment_of(url, "m"), session=session)
    assert (found.state, "url" in found.detail) == ("down", True)
