"""What engines took is read from their logs, kept, and shown beside what was predicted."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from tests.unit.engines.test_start_logs import CONSUMED, V1
from tests.unit.fleet.test_fleet import PROBES, deployment, launched, report_of, until
from trivet.config.settings import LaunchSettings
from trivet.domain.clock import ManualClock
from trivet.domain.gpus import GIB
from trivet.fleet import Fleet
from trivet.fleet.observed import ENTRIES_MAX, OBSERVED_FILE, Observations, in_gib, read_observed
from trivet.fleet.plan import EndpointPlan

PLAN = EndpointPlan(
    deployment=deployment("heavy", engine="vllm", model="Qwen/Qwen2.5-7B", context_tokens=4096, slots=32),
    launch=LaunchSettings(gpu_memory_utilization=0.9),
    gpu="NVIDIA H100 80GB HBM3",
)


def test_the_newest_of_each_kind_is_kept(tmp_path: Path) -> None:
    """Another version, or another setting, is another entry; the same start replaces its predecessor."""
    clock = ManualClock()
    seen = Observations(tmp_path, clock)
    first = seen.note(PLAN, V1)
    assert first is not None
    assert in_gib(first)["weights_gib"] == 14.08
    seen.note(PLAN, CONSUMED)
    seen.note(replace(PLAN, launch=LaunchSettings()), V1)
    clock.advance(60)
    seen.note(PLAN, V1)
    entries = list(read_observed(tmp_path / OBSERVED_FILE).values())
    assert [entry["engine_version"] for entry in entries] == ["0.32.0", "0.10.2", "0.10.2"]
    assert entries[-1] == {
        "engine": "vllm",
        "engine_version": "0.10.2",
        "model": "Qwen/Qwen2.5-7B",
        "gpu": "NVIDIA H100 80GB HBM3",
        "tensor_parallel": 1,
        "context_tokens": 4096,
        "sequences": 32,
        "batched_tokens": None,
        "gpu_memory_utilization": 0.9,
        "kv_dtype": None,
        "arguments": [],
        "weights_bytes": round(14.08 * GIB),
        "kv_bytes": round(55.15 * GIB),
        "kv_tokens": 451_744,
        "activation_bytes": round(1.97 * GIB),
        "non_torch_bytes": round(0.07 * GIB),
        "graphs_bytes": round(0.67 * GIB),
        "compute_bytes": None,
        "observed_at": "2026-01-01T00:01:00+00:00",
    }


def test_silence_keeps_what_is_known(tmp_path: Path) -> None:
    """A log without figures changes nothing; a file that is none counts as empty, and is replaced."""
    seen = Observations(tmp_path, ManualClock())
    (tmp_path / OBSERVED_FILE).write_text("{")
    assert seen.note(PLAN, "hello") is None
    assert read_observed(tmp_path / OBSERVED_FILE) == {}
    seen.note(PLAN, V1)
    assert len(read_observed(tmp_path / OBSERVED_FILE)) == 1


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """The oldest entries go first."""
    old = {str(number): {"model": number} for number in range(ENTRIES_MAX)}
    (tmp_path / OBSERVED_FILE).write_text(json.dumps(old))
    Observations(tmp_path, ManualClock()).note(PLAN, V1)
    entries = read_observed(tmp_path / OBSERVED_FILE)
    assert (len(entries), "0" in entries, "1" in entries) == (ENTRIES_MAX, False, True)


async def test_an_attached_vllm_is_asked_for_its_cache() -> None:
    """Whose log is not ours tells its cache in /metrics; what it does not tell stays open."""
    told = {
        "/health": "",
        "/v1/models": '{"data": [{"id": "m", "max_model_len": 512}]}',
        "/metrics": 'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0',
    }

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=told[request.path])

    application = web.Application()
    application.add_routes([web.get(path, answer) for path in told])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with Fleet(
            [EndpointPlan(deployment=deployment("v", engine="vllm", model="m", url=url))], PROBES
        ) as fleet:
            await until(lambda: report_of(fleet, "v")["actual"] is not None)
            actual = report_of(fleet, "v")["actual"]
    finally:
        await runner.cleanup()
    assert (actual["kv_tokens"], actual["weights_gib"]) == (1600, None)


async def test_a_real_engine_says_what_it_took(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """llama.cpp's buffers stand in the report beside the prediction, and in the file for the next plan."""
    plan = replace(launched("ours", tiny_models["light"]), predicted={"weights_gib": 0.001})
    async with Fleet([plan], PROBES, tmp_path) as fleet:
        await until(lambda: report_of(fleet, "ours")["actual"] is not None)
        report = report_of(fleet, "ours")
    (entry,) = read_observed(tmp_path / OBSERVED_FILE).values()
    assert report["predicted"] == {"weights_gib": 0.001}
    assert report["actual"]["kv_tokens"] == entry["kv_tokens"] == 2 * 512
    assert 0 < entry["weights_bytes"] < 1_000_000
    assert entry["kv_bytes"] > 0
    assert entry["compute_bytes"] > 0
    assert entry["engine_version"].startswith("xllamacpp-")
    assert (entry["engine"], entry["gpu"]) == ("llamacpp", "cpu")
