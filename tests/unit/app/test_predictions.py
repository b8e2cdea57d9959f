"""What launched engines should take is worked out from the catalog and from files; the rest is left open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trivet.app.predictions import predict
from trivet.config.deployments import build_deployments
from trivet.config.settings import Settings
from trivet.domain.gpus import GIB, Gpu, Host, Inventory

H100 = Gpu(uuid="GPU-a", name="NVIDIA H100 80GB HBM3", total_bytes=85_029_158_912)


async def predicted(*deployments: dict[str, Any]) -> Mapping[str, dict[str, Any]]:
    """Predict deployments of the first tier, on a machine with an H100."""
    tiers = [
        {"name": "light", "cost_weight": 1, "complexity": [0, 0.5], "deployments": list(deployments)},
        {"name": "heavy", "cost_weight": 2, "complexity": [0.5, 1], "deployments": [{"model": "ollama/q"}]},
    ]
    settings = Settings.model_validate({"tiers": tiers})
    host = Host(ram_total_bytes=16 * GIB, ram_available_bytes=16 * GIB, cpu_cores=4)
    inventory = Inventory(host=host, gpus=(H100,))
    return await predict(settings, build_deployments(settings, gpus=["GPU-a"]), inventory)


async def test_a_vllm_of_the_catalog() -> None:
    """Weights, cache and what else vLLM fills its share of the GPU with; the settings count."""
    launch = {"gpu_memory_utilization": 0.9, "arguments": ["--enforce-eager", "--dtype=bfloat16"]}
    deployment = {"model": "vllm/Qwen/Qwen2.5-7B-Instruct", "context_tokens": 16384, "slots": 64}
    (figures,) = (await predicted({**deployment, "launch": launch})).values()
    assert 14.0 < figures["weights_gib"] < 14.4
    assert figures["graphs_gib"] == 0
    assert 50 < figures["kv_gib"] < 60
    assert figures["kv_tokens"] > 16384


async def test_a_gguf_on_the_host(tiny_models: Mapping[str, Path]) -> None:
    """A file tells its weights exactly."""
    launch = {"path": str(tiny_models["light"])}
    (figures,) = (
        await predicted({"model": "llamacpp/tiny", "context_tokens": 512, "launch": launch})
    ).values()
    assert 0 < figures["weights_gib"] < 0.001


async def test_what_nobody_describes_is_left_open(tmp_path: Path) -> None:
    """Unknown models, files that are missing or broken, vLLM on the CPU, attached servers: no prediction."""
    unknown = {"model": "vllm/nobody/nothing-at-all", "launch": {}}
    missing = {"model": "llamacpp/x", "launch": {"path": str(tmp_path / "none.gguf")}}
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    broken = {"model": "llamacpp/y", "launch": {"path": str(tmp_path / "broken.gguf")}}
    on_host = {"model": "vllm/Qwen/Qwen2.5-7B-Instruct", "devices": ["host"], "launch": {}}
    attached = {"model": "vllm/qwen2.5:7b"}
    assert await predicted(unknown, missing, broken, on_host, attached) == {}
