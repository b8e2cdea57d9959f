"""A plan as Trivet's own configuration. Pure: documents are data, written as YAML at the end."""

from collections.abc import Mapping
from typing import Any

import yaml

from trivet.catalog.ollama_servers import FIRST_PORT, OllamaServer, ollama_servers
from trivet.catalog.plan import Plan, TierPlan
from trivet.catalog.tool_parsers import reasoning_parser, tool_parser
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB
from trivet.domain.tiers import HOST_DEVICE

SWAP_GROUP = "memory"
SLEEP_RAM_SHARE = 0.6
"""vLLM's sleep level 1 keeps sleeping weights in the host's memory; only so much of it is given to them."""

_COMPLEXITY: Mapping[int, tuple[tuple[float, float], ...]] = {
    2: ((0.0, 0.5), (0.5, 1.0)),
    3: ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)),
}
_OUTPUT_TOKENS: Mapping[str, int] = {"heavy": 2048}


class _Writer(yaml.SafeDumper):
    """Writes lists of plain values on one line, everything else below one another."""


def _flow_of_plain(writer: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    plain = all(not isinstance(item, dict | list) for item in value)
    return writer.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=plain)


def _text(writer: yaml.SafeDumper, value: str) -> yaml.Node:
    return writer.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Writer.add_representer(list, _flow_of_plain)
_Writer.add_representer(str, _text)


def as_yaml(*documents: Any, remarks: tuple[str, ...] = ()) -> str:
    """Return documents as YAML text, remarks above them as comments."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in remarks)
    text = yaml.dump_all(documents, Dumper=_Writer, sort_keys=False, width=110, allow_unicode=True)
    return f"{head}{text}"


def config_document(plan: Plan, addresses: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the configuration that a plan amounts to.

    Args:
        plan: the plan.
        addresses: the URL of each tier's engine where something else starts it (containers); by default
        Trivet starts vLLM itself, and Ollama is found on this machine.

    Raises:
        ConfigError: the plan serves fewer tiers than a configuration needs.
    """
    if len(plan.tiers) < 2:
        served = ", ".join(plan.tiers) or "none"
        raise ConfigError(
            f"The plan serves too few tiers for a configuration, which needs two: {served}.",
            hint="Ask for less context or fewer sequences (--demand); `trivet plan` says what was rejected.",
        )
    ranges = _COMPLEXITY[len(plan.tiers)]
    servers = {name: server for server in ollama_servers(plan) for name in server.tiers}
    cheapest = min(tier.card.active_params for tier in plan.tiers.values())
    tiers: list[dict[str, Any]] = []
    weight = 0.0
    for (name, tier), complexity in zip(plan.tiers.items(), ranges, strict=True):
        weight = max(weight, round(tier.card.active_params / cheapest, 1))
        url = addresses.get(name) if addresses is not None else _url(servers.get(name))
        tiers.append(
            {
                "name": name,
                "cost_weight": weight,
                "complexity": list(complexity),
                "max_output_tokens": min(_OUTPUT_TOKENS.get(name, 1024), tier.context_tokens),
                "deployments": [_deployment(tier, plan, url, started_here=addresses is None)],
            }
        )
    document: dict[str, Any] = {"tiers": tiers}
    if any(tier.swapped and tier.variant.engine == "vllm" for tier in plan.tiers.values()):
        document["fleet"] = {"swap": {"sleep_level": _sleep_level(plan)}}
    return document


def config_text(plan: Plan) -> str:
    """Return the configuration as a file, with what has to be there before it works as remarks."""
    return as_yaml(config_document(plan), remarks=(_title(plan), "", *preparations(plan)))


def preparations(plan: Plan) -> list[str]:
    """Return what the operator has to do before `trivet serve`, one line each."""
    lines: list[str] = []
    if not plan.inventory.measured and plan.mode != "cpu":
        lines.append(
            "This machine was described, not measured: replace PLAN-0, ... by the UUIDs of `nvidia-smi -L`."
        )
    for server in ollama_servers(plan):
        environment = server.environment(plan)
        ordinary = server.port == FIRST_PORT and "CUDA_VISIBLE_DEVICES" not in environment
        if ordinary and server.parallel == 1:
            lines.append("Ollama: as it is installed (OLLAMA_NUM_PARALLEL=1), on port 11434.")
            continue
        variables = {"OLLAMA_HOST": f"127.0.0.1:{server.port}", **environment}
        words = " ".join(f"{name}={value}" for name, value in variables.items())
        lines.append(f"Ollama for {' and '.join(server.tiers)}: {words} ollama serve")
    if any(tier.variant.engine == "vllm" for tier in plan.tiers.values()):
        lines.append(
            "vLLM: `vllm` on the PATH of `trivet serve`, or launch.command; it loads the models by itself."
        )
    return lines


def vllm_arguments(tier: TierPlan) -> list[str]:
    """Return the arguments of a vLLM server that no setting stands for."""
    arguments: list[str] = []
    if tier.dtype == "fp16":
        arguments += ["--dtype", "half"]
    parser = tool_parser(tier.card)
    if parser is not None:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    thinking = reasoning_parser(tier.card)
    if thinking is not None:
        arguments += ["--reasoning-parser", thinking]
    return arguments


def _title(plan: Plan) -> str:
    kinds: dict[str, int] = {}
    for device in plan.devices:
        kinds[device.device.spec.name] = kinds.get(device.device.spec.name, 0) + 1
    machine = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
    return f"Planned by Trivet for {machine or 'no GPU'}: {plan.mode}, objective {plan.objective:.1f}."


def _deployment(tier: TierPlan, plan: Plan, url: str | None, *, started_here: bool) -> dict[str, Any]:
    engine = tier.variant.engine
    deployment: dict[str, Any] = {"model": f"{engine}/{tier.variant.ref}"}
    if url is not None:
        deployment["url"] = url
    deployment |= {
        "context_tokens": tier.context_tokens,
        "slots": tier.sequences,
        "devices": [device.uuid for device in tier.devices] if plan.mode != "cpu" else [HOST_DEVICE],
        "capabilities": sorted(_capabilities(tier)),
    }
    if tier.swapped:
        deployment["swap_group"] = SWAP_GROUP
    if engine == "ollama":
        deployment["ollama"] = {"pull": "missing", "preload": not tier.swapped, "keep_alive": -1}
    elif started_here:
        launch: dict[str, Any] = {
            "tensor_parallel": len(tier.devices),
            "gpu_memory_utilization": tier.gpu_memory_utilization,
            "max_batched_tokens": tier.batched_tokens,
            "arguments": vllm_arguments(tier),
        }
        deployment["launch"] = launch
    return deployment


def _capabilities(tier: TierPlan) -> set[str]:
    on_vllm = tier.variant.engine == "vllm"
    found = {"json_schema", *({"logprobs"} if on_vllm else ())}
    found |= tier.card.capabilities & {"vision", "thinking", "tools"}
    if on_vllm and tool_parser(tier.card) is None:
        found.discard("tools")
    return found


def _url(server: OllamaServer | None) -> str | None:
    if server is None or server.port == FIRST_PORT:
        return None
    return f"http://127.0.0.1:{server.port}"


def _sleep_level(plan: Plan) -> int:
    asleep = sum(
        tier.footprint.weights_bytes * len(tier.devices)
        for tier in plan.tiers.values()
        if tier.swapped and tier.variant.engine == "vllm"
    )
    ram = plan.inventory.host.ram_available_bytes
    return 1 if asleep <= max(SLEEP_RAM_SHARE * ram, GIB) else 2
