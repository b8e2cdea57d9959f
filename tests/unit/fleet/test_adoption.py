"""Engines that outlive Trivet: who is adopted, who is ended, and what is forgotten."""

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fleet.test_fleet import deployment, gone, launched, report_of, until
from trivet.config.settings import FleetSettings
from trivet.engines.connect import open_session
from trivet.fleet import Fleet
from trivet.fleet.plan import EndpointPlan
from trivet.fleet.processes import Process
from trivet.fleet.records import RECORDS_FILE

KEEP = FleetSettings(probe_interval_s=0.1, on_exit="keep")
STOP = FleetSettings(probe_interval_s=0.1)


async def opened(plans: list[EndpointPlan], settings: FleetSettings, state: Path) -> list[dict[str, Any]]:
    """Open a fleet, return its reports, and close it."""
    async with Fleet(plans, settings, state) as fleet:
        return fleet.report()


def records_in(state: Path) -> list[dict[str, Any]]:
    """Return the engines that are written down."""
    found: list[dict[str, Any]] = json.loads((state / RECORDS_FILE).read_text())["engines"]
    return found


async def test_a_kept_engine_is_adopted_and_ended_by_stop(
    tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """The same process serves the next Trivet, which sees it die and starts another; `stop` keeps none."""
    plans = [launched("ours", tiny_models["light"])]
    (first,) = await opened(plans, KEEP, tmp_path)
    assert not gone(first["pid"])
    async with Fleet(plans, KEEP, tmp_path) as fleet:
        adopted = report_of(fleet, "ours")
        os.kill(adopted["pid"], signal.SIGKILL)
        await until(lambda: report_of(fleet, "ours")["state"] == "failed")
        assert "status 137" in report_of(fleet, "ours")["detail"]
        await until(lambda: report_of(fleet, "ours")["state"] == "ready")
        second = report_of(fleet, "ours")
    assert (adopted["pid"], adopted["url"], adopted["state"]) == (first["pid"], first["url"], "ready")
    assert second["pid"] != first["pid"]
    assert not gone(second["pid"])
    (third,) = await opened(plans, STOP, tmp_path)
    assert third["pid"] != second["pid"]
    assert [gone(report["pid"]) for report in (first, second, third)] == [True, True, True]
    assert records_in(tmp_path) == []
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "logs").iterdir()} == {0o600}


async def test_an_engine_that_is_not_what_is_wanted_is_ended(
    tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """Another window is another engine; a deployment that left the configuration leaves no engine."""
    plan = launched("ours", tiny_models["light"])
    (first,) = await opened([plan], KEEP, tmp_path)
    wider = replace(plan, deployment=replace(plan.deployment, context_tokens=1024))
    (second,) = await opened([wider], KEEP, tmp_path)
    assert second["pid"] != first["pid"]
    assert gone(first["pid"])
    attached = EndpointPlan(deployment=deployment("elsewhere", url="http://127.0.0.1:9"))
    await opened([attached], KEEP, tmp_path)
    assert gone(second["pid"])


async def test_an_engine_that_serves_another_model_is_not_adopted(
    tiny_models: Mapping[str, Path], tmp_path: Path, heavy_url: str
) -> None:
    """Whoever answers at the port must serve the model."""
    plans = [launched("ours", tiny_models["light"])]
    (first,) = await opened(plans, KEEP, tmp_path)
    document = json.loads((tmp_path / RECORDS_FILE).read_text())
    document["engines"][0]["port"] = int(heavy_url.rpartition(":")[2])
    (tmp_path / RECORDS_FILE).write_text(json.dumps(document))
    (second,) = await opened(plans, STOP.model_copy(update={"on_exit": "keep"}), tmp_path)
    assert (second["state"], second["url"] != heavy_url) == ("ready", True)
    assert gone(first["pid"])
    await opened([], STOP, tmp_path)
    assert gone(second["pid"])


@pytest.mark.parametrize("content", [None, "{", '{"boot": "another", "engines": []}'])
async def test_an_engine_that_no_record_names_is_ended(
    tiny_models: Mapping[str, Path], tmp_path: Path, content: str | None
) -> None:
    """When the records are lost or broken, kept engines are found by their guardians, and started anew."""
    plans = [launched("ours", tiny_models["light"])]
    (first,) = await opened(plans, KEEP, tmp_path)
    (tmp_path / RECORDS_FILE).write_text(content) if content else (tmp_path / RECORDS_FILE).unlink()
    (second,) = await opened(plans, STOP, tmp_path)
    assert (second["state"], second["pid"] != first["pid"]) == ("ready", True)
    assert [gone(report["pid"]) for report in (first, second)] == [True, True]


async def test_records_of_strangers_are_dropped(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """A process id that names a later process, a file of another boot and one that is none kill nobody."""
    plans = [launched("ours", tiny_models["light"])]
    await opened(plans, STOP, tmp_path)
    me = Process.of(os.getpid())
    assert me is not None
    stranger = {"pid": me.pid, "start_ticks": me.start_ticks - 1}
    record = {"deployment": "ours", "fingerprint": "", "keep": True, "port": 1}
    record |= {"guardian": stranger, "engine": stranger}
    document = json.loads((tmp_path / RECORDS_FILE).read_text())
    same_process = {**record, "guardian": {"pid": me.pid, "start_ticks": me.start_ticks}, "engine": None}
    for content in (
        json.dumps(document | {"engines": [record]}),
        json.dumps({"boot": "another", "engines": [same_process]}),
        "{",
        json.dumps({"engines": [1]}),
    ):
        (tmp_path / RECORDS_FILE).write_text(content)
        (report,) = await opened(plans, STOP, tmp_path)
        assert report["state"] == "ready"
        assert gone(report["pid"])


async def test_the_log_says_why_an_engine_failed(tmp_path: Path) -> None:
    """What the engine wrote stands beside the store, under the deployment's name."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    (report,) = await opened([launched("vllm/a model", broken)], STOP, tmp_path)
    (log,) = (tmp_path / "logs").glob("vllm-a-model-*.log")
    assert report["log"] == str(log)
    assert "is not a GGUF model file" in log.read_text()
    assert "is not a GGUF model file" in report["detail"]


async def test_a_killed_guardian_costs_a_restart(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """kill -9 of a guardian ends its engine, and another one is started."""
    async with Fleet([launched("ours", tiny_models["light"])], STOP, tmp_path) as fleet:
        first = report_of(fleet, "ours")
        os.kill(records_in(tmp_path)[0]["guardian"]["pid"], signal.SIGKILL)
        await until(lambda: report_of(fleet, "ours")["restarts"] == 1)
        await until(lambda: report_of(fleet, "ours")["state"] == "ready")
        second = report_of(fleet, "ours")
        async with open_session() as session, session.get(f"{second['url']}/health") as answer:
            assert answer.status == 200
    assert second["pid"] != first["pid"]
    # Nobody may be there to collect the orphan, so it may be seen dead.
    assert [Process.of(report["pid"]) for report in (first, second)] == [None, None]
