"""How engines are started: the command, the environment, and what makes two starts the same."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.calls import deployment_of
from trivet.config.settings import LaunchSettings
from trivet.domain.errors import ConfigError
from trivet.domain.tiers import Deployment
from trivet.engines.launch import plan_launch
from trivet.engines.vllm_server import server_command

SERVE = ("/opt/vllm/bin/vllm", "serve")
MODULE = ("/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server")


def deployment(engine: Any = "vllm", **fields: Any) -> Deployment:
    """Return a deployment of Qwen with 4 slots of 2048 tokens."""
    return replace(deployment_of(None, "Qwen/Qwen2.5-7B", engine=engine), **fields)


def test_vllm_serve_takes_the_model_by_position() -> None:
    """What the operator left open is left to vLLM; what Trivet counts on is told."""
    assert server_command(deployment(), LaunchSettings(command=SERVE), 1234) == [
        *(*SERVE, "Qwen/Qwen2.5-7B", "--uvicorn-log-level", "warning"),
        *("--served-model-name", "Qwen/Qwen2.5-7B"),
        *("--host", "127.0.0.1", "--port", "1234", "--max-model-len", "2048", "--max-num-seqs", "4"),
    ]


def test_the_module_takes_the_model_by_name_and_every_setting_is_passed() -> None:
    """Each key of `launch` becomes its argument; the operator's own come last."""
    launch = LaunchSettings(
        command=MODULE,
        path=Path("/models/qwen"),
        tensor_parallel=2,
        gpu_memory_utilization=0.85,
        max_batched_tokens=4096,
        kv_dtype="fp8",
        arguments=("--enforce-eager",),
    )
    command = server_command(deployment(), launch, 1234, context_pinned=False)
    assert command[: len(MODULE) + 2] == [*MODULE, "--model", "/models/qwen"]
    assert "--max-model-len" not in command
    assert command[-9:] == [
        *("--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.85"),
        *("--max-num-batched-tokens", "4096", "--kv-cache-dtype", "fp8", "--enforce-eager"),
    ]


def test_an_engine_sees_its_own_gpus_and_reports_to_nobody() -> None:
    """Devices are UUIDs, usage reports are off, and a key for another server is taken away."""
    plan = plan_launch(deployment(devices=("GPU-a", "MIG-b")), LaunchSettings(command=SERVE), 1)
    assert plan.environment == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-a,MIG-b",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_API_KEY": None,
    }
    assert (plan.url, plan.start_timeout_s) == ("http://127.0.0.1:1", 600.0)


def test_the_operators_environment_wins() -> None:
    """`launch.environment` stands above what is planned; the key that Trivet sends is asked for."""
    launch = LaunchSettings(command=SERVE, environment={"CUDA_VISIBLE_DEVICES": "0", "HF_HUB_OFFLINE": "1"})
    plan = plan_launch(deployment(devices=("GPU-a",)), launch, 1, api_key="k")
    wanted = {"CUDA_VISIBLE_DEVICES": "0", "HF_HUB_OFFLINE": "1", "VLLM_API_KEY": "k"}
    assert {name: plan.environment[name] for name in wanted} == wanted


def test_an_engine_without_gpus_is_told_nothing_of_them(tmp_path: Path) -> None:
    """On the host's CPU no variable is set."""
    launch = LaunchSettings(path=tmp_path / "m.gguf", start_timeout_s=7)
    plan = plan_launch(deployment("llamacpp", devices=("host",)), launch, 1)
    assert (plan.command[0], plan.environment, plan.start_timeout_s) == (sys.executable, {}, 7.0)


def test_llamacpp_gets_the_cache_type_and_further_arguments(tmp_path: Path) -> None:
    """They come after the planned ones."""
    launch = LaunchSettings(path=tmp_path / "m.gguf", kv_dtype="q8_0", arguments=("--slots", "9"))
    command = plan_launch(deployment("llamacpp"), launch, 1).command
    assert command[-4:] == ("--kv-type", "q8_0", "--slots", "9")


def test_llamacpp_needs_a_file() -> None:
    """Whoever comes past the configuration's check is told here."""
    with pytest.raises(ConfigError, match="GGUF"):
        plan_launch(deployment("llamacpp"), LaunchSettings(), 1)


def test_a_fingerprint_is_that_of_the_engine_whatever_its_port() -> None:
    """Another port is the same engine; another window, GPU or argument is another one."""
    launch = LaunchSettings(command=SERVE)
    same = {plan_launch(deployment(), launch, port).fingerprint for port in (1, 2)}
    others = {
        plan_launch(deployment(context_tokens=4096), launch, 1).fingerprint,
        plan_launch(deployment(devices=("GPU-a",)), launch, 1).fingerprint,
        plan_launch(deployment(), LaunchSettings(command=SERVE, arguments=("-x",)), 1).fingerprint,
    }
    assert (len(same), len(others | same)) == (1, 4)


def test_a_vllm_that_takes_turns_can_sleep() -> None:
    """The routes come with the development mode; a GPU gives memory back; a CPU build refuses the flag."""
    launch = LaunchSettings(command=SERVE)
    alone = plan_launch(deployment(devices=("GPU-a",)), launch, 1)
    on_gpu = plan_launch(deployment(devices=("GPU-a",), swap_group="gpu"), launch, 1)
    on_cpu = plan_launch(deployment(swap_group="gpu"), launch, 1)
    plans = (alone, on_gpu, on_cpu)
    assert [plan.environment.get("VLLM_SERVER_DEV_MODE") for plan in plans] == [None, "1", "1"]
    assert ["--enable-sleep-mode" in plan.command for plan in plans] == [False, True, False]


def test_an_engine_is_told_that_it_shall_make_vectors(tmp_path: Path) -> None:
    """llama.cpp does both; vLLM either, so a deployment that shall chat as well is started for that."""
    vectors, both = frozenset({"embeddings"}), frozenset({"embeddings", "chat"})
    launch = LaunchSettings(command=SERVE, path=tmp_path / "model.gguf")
    for capabilities, expected in ((vectors, True), (both, False), (frozenset(), False)):
        told = server_command(deployment(capabilities=capabilities), launch, 1)
        assert ("--runner" in told) is expected
    for capabilities, expected in ((vectors, True), (both, True), (frozenset(), False)):
        plan = plan_launch(deployment("llamacpp", capabilities=capabilities), launch, 1)
        assert ("--embeddings" in plan.command) is expected
