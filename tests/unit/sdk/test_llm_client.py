"""LLMClient: one answer from one deployment, on real llama.cpp servers and on one that misbehaves."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from tests.unit.sdk.conftest import MakeSettings
from trivet import FallbackChain, LLMClient, ModelRouter, ModelTier
from trivet.domain.errors import (
    ConfigError,
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineRejected,
    EngineUnavailable,
    ModelUnknown,
    RequestMalformed,
)

HELLO = [{"role": "user", "content": "Hello"}]
NOBODY = "http://127.0.0.1:9"
WAYS: dict[str, Mapping[str, Any]] = {
    "llamacpp": {"model": "llamacpp/tiny-light"},
    "llamacpp-by-another-name": {"model": "llamacpp/some-light-model"},
    "vllm-server": {"model": "vllm/tiny:light"},
    "openai": {"model": "openai/tiny-light"},
    "litellm-transport": {"model": "openai/tiny-light", "transport": "litellm"},
}


@pytest.fixture(scope="module")
def faulty(make_settings: MakeSettings, fault_server: str) -> LLMClient:
    """A client whose light tier has a deployment for each fault, named by it."""
    faults = ("ok", "503", "500", "garbage", "400", "400-context", "no-usage", "wrong-usage-huge", "hang")
    light = [{"model": f"openai/{fault}", "name": fault, "url": fault_server} for fault in faults]
    return LLMClient(make_settings(light=light, execution={"deadline_s": 30}))


@pytest.mark.parametrize("way", WAYS)
async def test_complete(make_settings: MakeSettings, light_url: str, way: str) -> None:
    """Whichever engine kind and transport, the answer is OpenAI's object with true usage."""
    client = LLMClient(make_settings(light=[{**WAYS[way], "url": light_url}]))
    for _ in range(2):
        answer = await client.complete(HELLO, model=str(WAYS[way]["model"]), temperature=0.0, max_tokens=5)
        assert isinstance(answer, ChatCompletion)
        assert answer.choices[0].message.content
        assert 0 < answer.usage.completion_tokens <= 5
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("model", ["openai/tiny-light", "light", ModelTier.LIGHT])
async def test_names(make_settings: MakeSettings, light_url: str, model: str) -> None:
    """A LiteLLM-form string and a tier reach the same deployment."""
    client = LLMClient(make_settings(light=[{"model": "openai/tiny-light", "url": light_url}]))
    assert (await client.complete(HELLO, model=model, max_tokens=2)).model == "tiny-light"


async def test_of_several_endpoints_the_first_answers(make_settings: MakeSettings, light_url: str) -> None:
    """A deployment with several servers is reached by its one name."""
    endpoints = [{"url": light_url}, {"url": NOBODY}]
    client = LLMClient(make_settings(light=[{"model": "openai/tiny-light", "endpoints": endpoints}]))
    assert (await client.complete(HELLO, model="openai/tiny-light", max_tokens=2)).model == "tiny-light"


async def test_default_model(make_settings: MakeSettings, light_url: str) -> None:
    """Without a model it is the fixed tier's first deployment."""
    client = LLMClient(make_settings(standard=[{"model": "openai/tiny-light", "url": light_url}]))
    assert (await client.complete(HELLO)).model == "tiny-light"


@pytest.mark.parametrize(
    ("asked", "granted"),
    [(None, 16), (3, 3), (5_000, 4_096)],
)
async def test_the_output_is_always_capped(
    make_settings: MakeSettings, fault_server: str, asked: int | None, granted: int
) -> None:
    """A cap is sent whatever was asked: the tier's, the caller's, or the most that any policy grants."""
    light = [{"model": "openai/ok", "url": fault_server}]
    answer = await LLMClient(make_settings(light=light)).complete(HELLO, model="light", max_tokens=asked)
    # This server generates exactly as many tokens as it may.
    assert answer.usage.completion_tokens == granted


async def test_openais_other_name_for_the_cap(make_settings: MakeSettings, fault_server: str) -> None:
    """`max_completion_tokens` is a cap as well; the smaller of the two counts."""
    client = LLMClient(make_settings(light=[{"model": "openai/ok", "url": fault_server}]))
    answer = await client.complete(HELLO, model="light", max_tokens=9, max_completion_tokens=4)
    assert answer.usage.completion_tokens == 4


async def test_parameters_pass_through(make_settings: MakeSettings, light_url: str) -> None:
    """OpenAI's other parameters reach the engine: one seed, one answer; log-probabilities are there."""
    client = LLMClient(make_settings(light=[{"model": "openai/tiny-light", "url": light_url}]))
    first, second = [
        await client.complete(HELLO, model="light", temperature=0.0, seed=7, max_tokens=4, logprobs=True)
        for _ in range(2)
    ]
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.choices[0].logprobs is not None


@pytest.mark.parametrize("fault", ["no-usage", "wrong-usage-huge"])
async def test_usage_that_cannot_be_true(faulty: LLMClient, fault: str) -> None:
    """Where the engine says nothing true, the usage is a ceiling of what it can have been."""
    answer = await faulty.complete(HELLO, model=fault, max_tokens=8)
    # 5 bytes of text, 4 of the role, 16 for the message, 64 for the template.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (89, 8)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("503", EngineBusy),
        ("500", EngineBroken),
        ("garbage", EngineBroken),
        ("400", EngineRejected),
        ("400-context", ContextOverflow),
    ],
)
async def test_engine_errors_are_named(faulty: LLMClient, fault: str, error: type[Exception]) -> None:
    """What an engine does wrong arrives as the error that it is."""
    with pytest.raises(error):
        await faulty.complete(HELLO, model=fault)


@pytest.mark.parametrize("engine", ["openai", "llamacpp", "vllm"])
async def test_nobody_answers(make_settings: MakeSettings, engine: str) -> None:
    """An engine that is not there is unavailable, so a chain moves on."""
    client = LLMClient(make_settings(light=[{"model": f"{engine}/x", "url": NOBODY}]))
    with pytest.raises(EngineUnavailable):
        await client.complete(HELLO, model="light")


async def test_a_model_that_is_not_served(make_settings: MakeSettings, fault_server: str) -> None:
    """A server that serves several other models does not serve this one; the error lists what it serves."""
    client = LLMClient(make_settings(light=[{"model": "vllm/nonesuch", "url": fault_server}]))
    with pytest.raises(EngineUnavailable, match="nonesuch"):
        await client.complete(HELLO, model="light")


async def test_cancelling(faulty: LLMClient) -> None:
    """A caller that gives up leaves nothing open (an open connection would fail this test)."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await faulty.complete(HELLO, model="hang")


@pytest.mark.parametrize("model", ["gpt-9", "auto", ""])
async def test_unknown_models(make_settings: MakeSettings, model: str) -> None:
    """A name that the configuration does not know is answered with those it knows."""
    with pytest.raises(ModelUnknown, match="light, standard, heavy, openai/light-model") as caught:
        await LLMClient(make_settings()).complete(HELLO, model=model)
    assert ("ModelRouter" in str(caught.value)) is (model == "auto")


async def test_an_ambiguous_model(make_settings: MakeSettings) -> None:
    """A string that several deployments share reaches none; the error lists their names."""
    light = [{"model": "openai/same", "name": name, "url": NOBODY} for name in ("one", "two")]
    with pytest.raises(ModelUnknown, match="one, two"):
        await LLMClient(make_settings(light=light)).complete(HELLO, model="openai/same")


async def test_launched_deployments(make_settings: MakeSettings, tiny_models: Mapping[str, Path]) -> None:
    """What Trivet itself would launch needs Trivet."""
    light = [{"model": "llamacpp/tiny", "launch": {"path": str(tiny_models["light"])}}]
    with pytest.raises(ConfigError, match=r"Trivet\.open"):
        await LLMClient(make_settings(light=light)).complete(HELLO, model="light")


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([], {}, "messages"),
        ("Hello", {}, r"messages\[0\]"),
        ([{"content": "no role"}], {}, "role"),
        (HELLO, {"max_tokens": 0}, "max_tokens"),
        (HELLO, {"n": 1000}, "n must be"),
        (HELLO, {"stream": True}, "whole answers"),
    ],
)
async def test_senseless_requests(
    make_settings: MakeSettings, messages: Any, options: dict[str, Any], message: str
) -> None:
    """A malformed call is told apart from a failing engine, before anything is sent."""
    with pytest.raises(RequestMalformed, match=message):
        await LLMClient(make_settings()).complete(messages, model="light", **options)


async def test_with_a_chain(make_settings: MakeSettings, light_url: str) -> None:
    """Router, chain and client together: a dead tier is passed over."""
    settings = make_settings(heavy=[{"model": "openai/tiny-light", "url": light_url}])
    router = ModelRouter(settings)
    chain = FallbackChain(tiers=list(router.models.values()))
    answer, config = await chain.execute_with_fallback(LLMClient(settings), HELLO, max_tokens=3)
    assert (config.tier, answer.usage.completion_tokens <= 3) == (ModelTier.HEAVY, True)


def test_a_program_ends_without_a_warning(light_url: str) -> None:
    """A program that closes nothing leaks nothing: resource warnings are errors in it."""
    script = (
        "import asyncio, sys\n"
        "from trivet import LLMClient\n"
        "from trivet.config.settings import Settings, default_tiers\n"
        "light, *rest = default_tiers()\n"
        "own = {'model': 'openai/tiny-light', 'url': sys.argv[1]}\n"
        "tiers = [{**light.model_dump(), 'deployments': [own]}, *(tier.model_dump() for tier in rest)]\n"
        "client = LLMClient(Settings.model_validate({'tiers': tiers}))\n"
        "hello = [{'role': 'user', 'content': 'Hello'}]\n"
        "for _ in range(2):\n"
        "    answer = asyncio.run(client.complete(hello, model='light', max_tokens=3))\n"
        "print(answer.usage.completion_tokens > 0)\n"
    )
    command = [sys.executable, "-W", "ignore", "-W", "error::ResourceWarning", "-c", script]
    done = subprocess.run([*command, light_url], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
