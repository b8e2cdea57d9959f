"""Tiers and deployments as the other rooms know them, made from the settings with every default filled in."""

import ipaddress
import urllib.parse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from trivet.config.environment import server_root
from trivet.config.problems import Problem, config_error, shown
from trivet.config.settings import DeploymentSettings, LaunchSettings, OllamaSettings, Settings, TierSettings
from trivet.domain.tiers import HOST_DEVICE, Deployment, EngineKind, Tier, TransportKind, is_gpu

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_SLOTS: dict[EngineKind, int] = {"ollama": 1, "llamacpp": 4, "vllm": 256, "openai": 64, "litellm": 64}
DEFAULT_CAPABILITIES: dict[EngineKind, frozenset[str]] = {
    "ollama": frozenset({"tools", "json_schema"}),
    "vllm": frozenset({"tools", "json_schema", "logprobs"}),
    "llamacpp": frozenset({"tools", "json_schema", "logprobs"}),
    "openai": frozenset({"tools", "vision", "json_schema", "logprobs"}),
    "litellm": frozenset({"tools", "vision", "json_schema", "logprobs"}),
}
LAUNCHED: frozenset[EngineKind] = frozenset({"llamacpp", "vllm"})
_OTHERS_KEYS: dict[EngineKind, tuple[str, ...]] = {
    "llamacpp": ("command", "tensor_parallel", "gpu_memory_utilization", "max_batched_tokens"),
    "vllm": ("threads", "gpu_layers"),
}
"""Keys of `launch` that only the other engine knows."""
_RELAYED: frozenset[EngineKind] = frozenset({"vllm", "llamacpp", "openai"})
_OWN: frozenset[EngineKind] = frozenset({"ollama", "vllm", "llamacpp"})


def build_tiers(settings: Settings) -> tuple[Tier, ...]:
    """Return the tiers, cheapest first."""
    return tuple(_tier(tier, order) for order, tier in enumerate(settings.tiers))


def build_deployments(settings: Settings, *, gpus: Sequence[str] = ()) -> tuple[Deployment, ...]:
    """Return all deployments, tier by tier, in the order of the configuration.

    Args:
        settings: the whole tree.
        gpus: UUIDs of the GPUs that were found: the devices of local engines that name none.

    Raises:
        ConfigError: with every deployment that cannot be reached or started as it is written.
    """
    problems: list[Problem] = []
    deployments: list[Deployment] = []
    for tier_settings, tier in zip(settings.tiers, build_tiers(settings), strict=True):
        for position, deployment in enumerate(tier_settings.deployments):
            found = _problems(deployment, settings, f"tiers.{tier.name}.deployments.{position}")
            problems += found
            if not found:
                deployments += _endpoints(deployment, tier, settings, tuple(gpus))
    if problems:
        raise config_error(problems)
    return tuple(deployments)


def api_key_of(settings: Settings, deployment_name: str) -> str | None:
    """Return the secret to send to a deployment's engine; None when there is none.

    `fleet.vllm_api_key` goes to `fleet.vllm_url` alone, never to a server with an address of its own.
    """
    deployment = deployment_settings(settings, deployment_name)
    key = deployment.api_key
    if key is None and _engine(deployment) == "vllm" and deployment.url is None and not deployment.endpoints:
        key = settings.fleet.vllm_api_key
    return key.get_secret_value() if key is not None else None


def launch_of(settings: Settings, deployment_name: str) -> LaunchSettings | None:
    """Return how to start a deployment's engine; None when it is attached to."""
    return deployment_settings(settings, deployment_name).launch


def state_dir_of(settings: Settings) -> Path:
    """Return the directory of the records, observations and logs of launched engines.

    By default `<store>.engines`, beside the store. `trivet plan --observed` reads its `observed.json`.
    """
    if settings.fleet.state_dir is not None:
        return settings.fleet.state_dir.expanduser().absolute()
    store = settings.store.path.expanduser().absolute()
    return store.with_name(f"{store.name}.engines")


def ollama_of(settings: Settings, deployment_name: str) -> OllamaSettings | None:
    """Return how to drive a deployment's Ollama model; None when Trivet only sends requests to it."""
    return _driven(deployment_settings(settings, deployment_name))


def deployment_settings(settings: Settings, deployment_name: str) -> DeploymentSettings:
    """Return what was configured for a deployment.

    Raises:
        KeyError: no deployment has this name.
    """
    for tier in settings.tiers:
        for deployment in tier.deployments:
            name = deployment.name or deployment.model
            if deployment_name == name or deployment_name in endpoint_names(name, len(deployment.endpoints)):
                return deployment
    raise KeyError(deployment_name)


def endpoint_names(name: str, count: int) -> tuple[str, ...]:
    """Return what the endpoints of a deployment that has several are called."""
    return tuple(f"{name}#{position}" for position in range(1, count + 1))


def _tier(tier: TierSettings, order: int) -> Tier:
    low, high = tier.complexity
    return Tier(
        name=tier.name,
        order=order,
        cost_weight=tier.cost_weight,
        complexity_low=low,
        complexity_high=high,
        temperature=tier.temperature,
        max_output_tokens=tier.max_output_tokens,
    )


def _endpoints(
    deployment: DeploymentSettings, tier: Tier, settings: Settings, gpus: tuple[str, ...]
) -> list[Deployment]:
    """Return one deployment for each endpoint: each has a breaker, a watch, a gate and a clock of its own."""
    if not deployment.endpoints:
        return [_deployment(deployment, tier, settings, gpus)]
    known_as = deployment.name or deployment.model
    names = endpoint_names(known_as, len(deployment.endpoints))
    made = []
    for name, endpoint in zip(names, deployment.endpoints, strict=True):
        own: dict[str, Any] = {"url": endpoint.url, "name": name, "endpoints": ()}
        own |= {"devices": endpoint.devices} if endpoint.devices is not None else {}
        own |= {"slots": endpoint.slots} if endpoint.slots is not None else {}
        single = _deployment(deployment.model_copy(update=own), tier, settings, gpus)
        made.append(replace(single, endpoint_of=known_as))
    return made


def _deployment(
    deployment: DeploymentSettings, tier: Tier, settings: Settings, gpus: tuple[str, ...]
) -> Deployment:
    engine = _engine(deployment)
    url = _url(deployment, settings)
    is_here = engine in _OWN or _is_loopback(url)
    devices = deployment.devices
    if devices is None:
        devices = _default_devices(deployment, gpus) if is_here else ()
    capabilities = deployment.capabilities
    driven = _driven(deployment)
    return Deployment(
        name=deployment.name or deployment.model,
        tier=tier,
        engine=engine,
        model=_model(deployment),
        transport=_transport(deployment),
        url=url,
        context_tokens=deployment.context_tokens or DEFAULT_CONTEXT_TOKENS,
        slots=deployment.slots or DEFAULT_SLOTS[engine],
        devices=devices,
        capabilities=DEFAULT_CAPABILITIES[engine] if capabilities is None else frozenset(capabilities),
        local=is_here if deployment.local is None else deployment.local,
        template_tokens=deployment.template_tokens,
        swap_group=deployment.swap_group,
        keep_alive=driven.keep_alive if driven is not None else None,
        # What Trivet launches is told how many it has.
        slots_guessed=deployment.slots is None and deployment.launch is None,
    )


def _driven(deployment: DeploymentSettings) -> OllamaSettings | None:
    if _engine(deployment) != "ollama":
        return None
    # Who takes turns in memory must be loaded and unloaded; nothing is downloaded unasked.
    taking_turns = OllamaSettings(pull="never") if deployment.swap_group is not None else None
    return deployment.ollama or taking_turns


def _default_devices(deployment: DeploymentSettings, gpus: tuple[str, ...]) -> tuple[str, ...]:
    # An embedded engine with no layer on a GPU works on the CPU, whatever GPUs the machine has.
    launch = deployment.launch
    if launch is not None and _engine(deployment) == "llamacpp" and launch.gpu_layers == 0:
        return (HOST_DEVICE,)
    return gpus or (HOST_DEVICE,)


def _engine(deployment: DeploymentSettings) -> EngineKind:
    if deployment.engine is not None:
        return deployment.engine
    prefix = deployment.model.partition("/")[0] if "/" in deployment.model else ""
    kinds: dict[str, EngineKind] = {kind: kind for kind in get_args(EngineKind)}
    kinds.pop("litellm")
    return kinds.get(prefix, "litellm")


def _model(deployment: DeploymentSettings) -> str:
    """Return the model's name as the engine knows it; LiteLLM wants its prefix left in place."""
    engine = _engine(deployment)
    return deployment.model if engine == "litellm" else deployment.model.removeprefix(f"{engine}/")


def _transport(deployment: DeploymentSettings) -> TransportKind:
    if deployment.transport != "auto":
        return deployment.transport
    return "relay" if _engine(deployment) in _RELAYED else "litellm"


def _url(deployment: DeploymentSettings, settings: Settings) -> str | None:
    """Return the engine's address; without `/v1` where Trivet knows the engine's other routes too."""
    engine = _engine(deployment)
    url = deployment.url
    if url is None and deployment.launch is None:
        if engine == "ollama":
            url = settings.fleet.ollama_url
        elif engine == "vllm":
            url = settings.fleet.vllm_url
    if url is None:
        return None
    return server_root(url) if engine in _OWN else url.strip().rstrip("/")


def _is_loopback(url: str | None) -> bool:
    host = urllib.parse.urlsplit(url).hostname if url else None
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _problems(deployment: DeploymentSettings, settings: Settings, key: str) -> list[Problem]:
    engine, model = _engine(deployment), deployment.model
    found: list[tuple[str, str]] = []
    if not _model(deployment).strip():
        found.append(("model", f"got {shown(model)}; write the model's name after the slash: {engine}/NAME."))
    if engine == "llamacpp" and not (deployment.launch or deployment.url or deployment.endpoints):
        ways = "give `launch` with the `path` of a GGUF file, or the `url` of a llama.cpp server that runs."
        found.append(("launch", f"{model} has nobody to answer: {ways}"))
    if deployment.endpoints:
        found += _endpoint_problems(deployment)
    elif engine == "openai" and deployment.url is None:
        found.append(
            ("url", f"{model} needs the server's address; for OpenAI itself write https://api.openai.com/v1.")
        )
    if deployment.launch is not None:
        found += _launch_problems(deployment, deployment.launch, engine)
    found += _residency_problems(deployment, engine)
    if deployment.transport == "relay" and deployment.url is None and not deployment.endpoints:
        found += _relay_problems(engine)
    url = _url(deployment, settings)
    if url is not None and not _is_web_address(url):
        where = "url" if deployment.url is not None else f"fleet.{engine}_url"
        found.append((where, f"got {shown(url)}; allowed: an address such as http://127.0.0.1:8000."))
    elif (
        url is not None and urllib.parse.urlsplit(url).username is not None and deployment.api_key is not None
    ):
        found.append(
            ("url", "holds a user's name, and `api_key` is given too: a request carries one of them.")
        )
    return [
        Problem(name if name.startswith("fleet.") else f"{key}.{name}", "", message)
        for name, message in found
    ]


def _endpoint_problems(deployment: DeploymentSettings) -> list[tuple[str, str]]:
    found = [
        (key, "belongs to a deployment with one endpoint; remove it, or `endpoints`.")
        for key in ("url", "launch", "swap_group", "ollama")
        if getattr(deployment, key) is not None
    ]
    urls = [endpoint.url.strip().rstrip("/") for endpoint in deployment.endpoints]
    for position, url in enumerate(urls):
        where = f"endpoints.{position}.url"
        if not _is_web_address(url):
            found.append((where, f"got {shown(url)}; allowed: an address such as http://10.0.0.7:8000."))
        elif url in urls[:position]:
            found.append((where, f"{shown(url)} is there already; name each server once."))
        elif urllib.parse.urlsplit(url).username is not None and deployment.api_key is not None:
            found.append((where, "holds a user's name, and `api_key` is given too: a request carries one."))
    return found


def _launch_problems(
    deployment: DeploymentSettings, launch: LaunchSettings, engine: EngineKind
) -> list[tuple[str, str]]:
    model = deployment.model
    if engine not in LAUNCHED:
        return [("launch", f"starts llama.cpp and vLLM only, and {model} is a model of {engine}; remove it.")]
    found: list[tuple[str, str]] = []
    if deployment.url is not None:
        found.append(
            ("url", "an engine that is launched gets its address when it starts; remove `url` or `launch`.")
        )
    if engine == "llamacpp" and launch.path is None:
        found.append(("launch.path", f"{model} needs the GGUF file that llama.cpp shall load."))
    if launch.command is not None and not launch.command:
        found.append(("launch.command", "an empty list starts nothing; write the program, or null."))
    found += [
        (f"launch.{key}", f"means nothing to {engine}; remove it.")
        for key in _OTHERS_KEYS[engine]
        if getattr(launch, key) != LaunchSettings.model_fields[key].default
    ]
    gpus = [device for device in deployment.devices or () if is_gpu(device)]
    if gpus and launch.tensor_parallel > len(gpus):
        found.append(
            (
                "launch.tensor_parallel",
                f"got {launch.tensor_parallel}, but `devices` names {len(gpus)}; name as many GPUs.",
            )
        )
    return found


def _residency_problems(deployment: DeploymentSettings, engine: EngineKind) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if deployment.ollama is not None and engine != "ollama":
        found.append(("ollama", f"means nothing to {engine}; remove it."))
    unloads = engine in ("ollama", "vllm") or (engine == "llamacpp" and deployment.launch is not None)
    if deployment.swap_group is not None and not unloads:
        ways = (
            "give it `launch`, so that Trivet can stop and start it."
            if engine == "llamacpp"
            else "remove it."
        )
        found.append(("swap_group", f"Trivet cannot unload a model of {engine} here; {ways}"))
    return found


def _relay_problems(engine: EngineKind) -> list[tuple[str, str]]:
    if engine == "ollama":
        why = (
            "Ollama's OpenAI route cuts prompts silently at the server's own context length; "
            "use `transport: auto`, or give this deployment a `url` and a model whose num_ctx is set."
        )
    elif engine == "litellm":
        why = "relaying needs an address to relay to; give `url`, or use `transport: auto`."
    else:
        return []
    return [("transport", f"got 'relay'; {why}")]


def _is_web_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
