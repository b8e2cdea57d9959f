"""Tiers and deployments made from the settings."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from trivet.config.deployments import (
    api_key_of,
    build_deployments,
    build_tiers,
    deployment_settings,
    launch_of,
)
from trivet.config.endpoint_settings import EndpointSettings
from trivet.config.settings import (
    DeploymentSettings,
    FleetSettings,
    LaunchSettings,
    Settings,
    TierSettings,
)
from trivet.domain.errors import ConfigError
from trivet.domain.tiers import Deployment, Tier

TWO = (EndpointSettings(url="http://a:1"), EndpointSettings(url="http://b:1"))
LAUNCH = LaunchSettings(path=Path("model.gguf"))
GPUS = ("GPU-a", "GPU-b")


def settings_with(*, fleet: FleetSettings | None = None, **deployment: Any) -> Settings:
    """Return settings whose cheapest tier is served by one deployment of these fields."""
    return Settings(
        tiers=(
            TierSettings(
                name="light",
                cost_weight=1,
                complexity=(0, 0.5),
                deployments=(DeploymentSettings(**deployment),),
            ),
            TierSettings(
                name="heavy",
                cost_weight=10,
                complexity=(0.5, 1),
                temperature=0.1,
                max_output_tokens=99,
                deployments=(DeploymentSettings(model="ollama/heavy"),),
            ),
        ),
        fleet=fleet or FleetSettings(),
    )


def built(gpus: tuple[str, ...] = (), **deployment: Any) -> Deployment:
    """Return the first deployment of such settings."""
    return build_deployments(settings_with(**deployment), gpus=gpus)[0]


def test_tiers_keep_their_order_and_fields() -> None:
    """Each tier knows its place, weight, range and defaults."""
    assert build_tiers(settings_with(model="ollama/x"))[1] == Tier(
        name="heavy",
        order=1,
        cost_weight=10.0,
        complexity_low=0.5,
        complexity_high=1.0,
        temperature=0.1,
        max_output_tokens=99,
    )


def test_the_default_deployments_are_the_seeds() -> None:
    """Without configuration: Ollama, Ollama, vLLM, each at its usual address."""
    assert [
        (d.name, d.tier.name, d.engine, d.model, d.transport, d.url, d.slots, d.devices, d.local)
        for d in build_deployments(Settings())
    ] == [
        (
            "ollama/qwen2.5:7b",
            "light",
            "ollama",
            "qwen2.5:7b",
            "litellm",
            "http://127.0.0.1:11434",
            1,
            ("host",),
            True,
        ),
        (
            "ollama/qwen2.5:32b",
            "standard",
            "ollama",
            "qwen2.5:32b",
            "litellm",
            "http://127.0.0.1:11434",
            1,
            ("host",),
            True,
        ),
        (
            "vllm/qwen2.5:72b",
            "heavy",
            "vllm",
            "qwen2.5:72b",
            "relay",
            "http://127.0.0.1:8000",
            256,
            ("host",),
            True,
        ),
    ]


@pytest.mark.parametrize(
    ("given", "engine", "model", "transport", "slots", "local"),
    [
        ({"model": "ollama/q:7b"}, "ollama", "q:7b", "litellm", 1, True),
        ({"model": "vllm/q"}, "vllm", "q", "relay", 256, True),
        ({"model": "vllm/org/q"}, "vllm", "org/q", "relay", 256, True),
        ({"model": "llamacpp/q", "launch": LAUNCH}, "llamacpp", "q", "relay", 4, True),
        ({"model": "openai/q", "url": "https://box/v1"}, "openai", "q", "relay", 64, False),
        ({"model": "openai/q", "url": "http://localhost:1/v1"}, "openai", "q", "relay", 64, True),
        ({"model": "groq/q"}, "litellm", "groq/q", "litellm", 64, False),
        ({"model": "ollama_chat/q"}, "litellm", "ollama_chat/q", "litellm", 64, False),
        ({"model": "gpt-x"}, "litellm", "gpt-x", "litellm", 64, False),
        ({"model": "litellm/q"}, "litellm", "litellm/q", "litellm", 64, False),
        ({"model": "vllm"}, "litellm", "vllm", "litellm", 64, False),
        ({"model": "org/q", "engine": "vllm"}, "vllm", "org/q", "relay", 256, True),
        ({"model": "ollama/q", "engine": "litellm"}, "litellm", "ollama/q", "litellm", 64, False),
        ({"model": "vllm/q", "transport": "litellm"}, "vllm", "q", "litellm", 256, True),
        ({"model": "ollama/q", "transport": "relay", "url": "http://box"}, "ollama", "q", "relay", 1, True),
        (
            {"model": "groq/q", "transport": "relay", "url": "http://[::1]:1"},
            "litellm",
            "groq/q",
            "relay",
            64,
            True,
        ),
        ({"model": "groq/q", "slots": 3, "local": True}, "litellm", "groq/q", "litellm", 3, True),
        ({"model": "ollama/q", "local": False}, "ollama", "q", "litellm", 1, False),
    ],
)
def test_defaults_follow_the_engine(
    given: dict[str, Any], engine: str, model: str, transport: str, slots: int, local: object
) -> None:
    """The prefix names the engine, and the engine decides what the configuration leaves open."""
    deployment = built(**given)
    assert (
        deployment.engine,
        deployment.model,
        deployment.transport,
        deployment.slots,
        deployment.local,
    ) == (
        engine,
        model,
        transport,
        slots,
        local,
    )


@pytest.mark.parametrize(
    ("given", "gpus", "expected"),
    [
        ({"model": "ollama/q"}, (), ("host",)),
        ({"model": "ollama/q"}, GPUS, GPUS),
        ({"model": "vllm/q"}, GPUS, GPUS),
        ({"model": "vllm/q", "devices": ("GPU-b",)}, GPUS, ("GPU-b",)),
        ({"model": "vllm/q", "devices": ()}, GPUS, ()),
        ({"model": "llamacpp/q", "launch": LAUNCH}, GPUS, ("host",)),
        ({"model": "llamacpp/q", "launch": LAUNCH.model_copy(update={"gpu_layers": 9})}, GPUS, GPUS),
        ({"model": "vllm/q", "launch": LaunchSettings()}, GPUS, GPUS),
        ({"model": "vllm/q", "launch": LaunchSettings()}, (), ("host",)),
        ({"model": "llamacpp/q", "url": "http://127.0.0.1:1"}, GPUS, GPUS),
        ({"model": "openai/q", "url": "https://api.example.com/v1"}, GPUS, ()),
        ({"model": "openai/q", "url": "http://127.0.0.1:1/v1"}, GPUS, GPUS),
        ({"model": "groq/q", "local": True}, GPUS, ()),
    ],
)
def test_devices_are_those_found_unless_named(
    given: dict[str, Any], gpus: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """Local engines occupy the GPUs found, else the host; CPU launches the host; remote ones nothing."""
    assert built(gpus, **given).devices == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model": "ollama/q"}, "http://o:1"),
        ({"model": "ollama/q", "url": "http://x:2/"}, "http://x:2"),
        ({"model": "vllm/q"}, "http://v:1"),
        ({"model": "vllm/q", "url": "http://x:2/v1"}, "http://x:2"),
        ({"model": "llamacpp/q", "url": "http://x:2/v1/"}, "http://x:2"),
        ({"model": "llamacpp/q", "launch": LAUNCH}, None),
        ({"model": "vllm/q", "launch": LaunchSettings()}, None),
        ({"model": "openai/q", "url": "https://x/api/v1/"}, "https://x/api/v1"),
        ({"model": "groq/q"}, None),
    ],
)
def test_addresses_come_from_the_deployment_or_the_fleet(given: dict[str, Any], expected: str | None) -> None:
    """A deployment's own address wins; a launched engine has none until it runs."""
    fleet = FleetSettings(ollama_url="http://o:1/", vllm_url="http://v:1/v1")
    assert built(fleet=fleet, **given).url == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model": "ollama/q"}, {"tools", "json_schema"}),
        ({"model": "vllm/q"}, {"tools", "json_schema", "logprobs"}),
        ({"model": "llamacpp/q", "launch": LAUNCH}, {"tools", "json_schema", "logprobs"}),
        ({"model": "openai/q", "url": "http://x"}, {"tools", "vision", "json_schema", "logprobs"}),
        ({"model": "groq/q"}, {"tools", "vision", "json_schema", "logprobs"}),
        ({"model": "groq/q", "capabilities": ["thinking"]}, {"thinking"}),
        ({"model": "ollama/q", "capabilities": []}, set()),
    ],
)
def test_capabilities_follow_the_engine_unless_named(given: dict[str, Any], expected: set[str]) -> None:
    """What the configuration names replaces the engine's usual capabilities, also when it names none."""
    assert built(**given).capabilities == expected


def test_the_rest_is_taken_as_it_stands() -> None:
    """Name, context and template allowance come from the configuration, the context with a default."""
    deployment = built(model="ollama/q", name="mine", context_tokens=77, template_tokens=5)
    assert (deployment.name, deployment.context_tokens, deployment.template_tokens) == ("mine", 77, 5)
    assert built(model="ollama/q").context_tokens == 8192


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"model": "openai/q", "url": "http://ana:secret@x/v1", "api_key": SecretStr("sk-1")},
            ["deployments.0.url", "`api_key` is given too"],
        ),
        (
            {"model": "ollama/q", "transport": "relay"},
            ["deployments.0.transport", "cuts prompts", "transport: auto"],
        ),
        (
            {"model": "groq/q", "transport": "relay"},
            ["deployments.0.transport", "address to relay to", "url"],
        ),
        ({"model": "llamacpp/q"}, ["deployments.0.launch", "llamacpp/q", "GGUF", "url"]),
        ({"model": "llamacpp/q", "launch": LAUNCH, "url": "http://x"}, ["deployments.0.url", "remove `url`"]),
        ({"model": "ollama/q", "launch": LAUNCH}, ["deployments.0.launch", "llama.cpp and vLLM", "ollama"]),
        ({"model": "llamacpp/q", "launch": LaunchSettings()}, ["deployments.0.launch.path", "GGUF"]),
        (
            {"model": "llamacpp/q", "launch": LAUNCH.model_copy(update={"tensor_parallel": 2})},
            ["deployments.0.launch.tensor_parallel", "means nothing to llamacpp"],
        ),
        ({"model": "vllm/q", "launch": LaunchSettings(gpu_layers=9)}, ["launch.gpu_layers", "vllm"]),
        ({"model": "vllm/q", "launch": LaunchSettings(command=())}, ["launch.command", "starts nothing"]),
        (
            {"model": "vllm/q", "launch": LaunchSettings(tensor_parallel=2), "devices": ("GPU-a",)},
            ["launch.tensor_parallel", "got 2", "names 1"],
        ),
        ({"model": "openai/q"}, ["deployments.0.url", "openai/q", "https://api.openai.com/v1"]),
        ({"model": "vllm/"}, ["deployments.0.model", "vllm/NAME"]),
        (
            {"model": "vllm/q", "url": "box:8000"},
            ["deployments.0.url", "got 'box:8000'", "http://127.0.0.1:8000"],
        ),
        ({"model": "vllm/q", "fleet": FleetSettings(vllm_url="box")}, ["fleet.vllm_url", "got 'box'"]),
        (
            {"model": "vllm/q", "endpoints": TWO, "url": "http://x", "swap_group": "g"},
            ["deployments.0.url", "deployments.0.swap_group", "one endpoint"],
        ),
        (
            {"model": "vllm/q", "endpoints": (*TWO, TWO[0], EndpointSettings(url="box"))},
            ["endpoints.2.url", "there already", "endpoints.3.url", "got 'box'"],
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(given: dict[str, Any], words: list[str]) -> None:
    """A deployment that could never answer is told before anything starts, with what to write instead."""
    with pytest.raises(ConfigError) as caught:
        built(**given)
    assert [word for word in words if word not in str(caught.value)] == []


def test_each_endpoint_is_a_deployment_of_its_own() -> None:
    """They share what was said of all, are numbered from 1, and know the name that callers write."""
    settings = settings_with(
        model="vllm/q",
        name="big",
        slots=8,
        endpoints=(TWO[0], EndpointSettings(url="http://b:1/v1", devices=("GPU-b",), slots=2)),
        fleet=FleetSettings(vllm_api_key=SecretStr("fleet-key")),
        context_tokens=5,
    )
    first, second, _ = build_deployments(settings, gpus=GPUS)
    assert [(d.name, d.endpoint_of, d.known_as, d.url, d.model) for d in (first, second)] == [
        ("big#1", "big", "big", "http://a:1", "q"),
        ("big#2", "big", "big", "http://b:1", "q"),
    ]
    assert [(d.devices, d.slots) for d in (first, second)] == [(GPUS, 8), (("GPU-b",), 2)]
    assert deployment_settings(settings, "big#2").context_tokens == 5
    assert api_key_of(settings, "big#1") is None
    with pytest.raises(KeyError):
        deployment_settings(settings, "big#3")


def test_all_deployments_that_cannot_work_are_told() -> None:
    """One error lists them all, by tier."""
    settings = settings_with(model="llamacpp/q")
    heavy = settings.tiers[1].model_copy(update={"deployments": (DeploymentSettings(model="openai/q"),)})
    with pytest.raises(ConfigError) as caught:
        build_deployments(settings.model_copy(update={"tiers": (settings.tiers[0], heavy)}))
    assert [problem["key"] for problem in caught.value.details["problems"]] == [
        "tiers.light.deployments.0.launch",
        "tiers.heavy.deployments.0.url",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model": "vllm/q"}, "fleet-key"),
        ({"model": "vllm/q", "url": "http://elsewhere"}, None),
        ({"model": "vllm/q", "api_key": SecretStr("own-key")}, "own-key"),
        ({"model": "openai/q", "url": "http://x", "api_key": SecretStr("own-key")}, "own-key"),
        ({"model": "ollama/q"}, None),
    ],
)
def test_a_key_goes_only_where_it_belongs(given: dict[str, Any], expected: str | None) -> None:
    """A deployment's own key wins; the fleet's vLLM key is sent to the fleet's vLLM server alone."""
    settings = settings_with(fleet=FleetSettings(vllm_api_key=SecretStr("fleet-key")), **given)
    assert api_key_of(settings, given["model"]) == expected


def test_a_deployments_settings_are_found_by_its_name() -> None:
    """Launch and settings are looked up by the name that callers write; another name is an error."""
    settings = settings_with(model="llamacpp/q", name="mine", launch=LAUNCH, context_tokens=5)
    assert launch_of(settings, "mine") == LAUNCH
    assert launch_of(settings, "ollama/heavy") is None
    assert deployment_settings(settings, "mine").context_tokens == 5
    with pytest.raises(KeyError, match="llamacpp/q"):
        deployment_settings(settings, "llamacpp/q")
