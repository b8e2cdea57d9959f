"""`trivet plan` and `trivet init`: what is asked, what is answered, what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from trivet.cli.main import app
from trivet.config.deployments import build_deployments
from trivet.config.load import load_settings
from trivet.domain.errors import ConfigError

RUNNER = CliRunner()
COLUMNS_MAX = 80
FIELDS = {"inventory", "mode", "objective", "groups", "tiers", "gpus", "rejected"}
TIER_FIELDS = {"model", "engine", "quant", "gpus", "tp", "context_tokens", "sequences", "footprint"}
GPU_FIELDS = {"name", "usable_gib", "margin_gib", "used_gib_peak", "free_gib_peak"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Give an empty configuration, so that none of this machine's counts."""
    path = tmp_path / "own.yaml"
    path.write_text("{}", encoding="utf-8")
    return path


def run(config: Path, *arguments: str) -> Result:
    """Run a command; what it raises is raised."""
    done = RUNNER.invoke(app, [*arguments, "--config", str(config)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def document(config: Path, *arguments: str) -> dict[str, Any]:
    """Return what `plan --json` prints."""
    found = json.loads(run(config, "plan", *arguments, "--json").stdout)
    assert isinstance(found, dict)
    return found


def test_the_json_has_the_published_names(config: Path) -> None:
    """Every field that is promised is there, and the tiers' GPUs are those of the list."""
    plan = document(config, "--gpus", "2xRTX4090,1xH100")
    assert plan.keys() >= FIELDS
    assert plan["inventory"]["measured"] is False
    assert list(plan["tiers"]) == ["light", "standard", "heavy"]
    names = {gpu["name"] for gpu in plan["gpus"]}
    assert len(names) == 3
    for tier in plan["tiers"].values():
        assert tier.keys() >= TIER_FIELDS
        assert set(tier["gpus"]) <= names
        assert tier["footprint"]["total_gib"] > tier["footprint"]["weights_gib"] > 0
    for gpu in plan["gpus"]:
        assert gpu.keys() >= GPU_FIELDS
    assert all(one.keys() == {"model", "tier", "reason"} for one in plan["rejected"])


def test_what_is_asked_is_planned(config: Path, tmp_path: Path) -> None:
    """Options, and a file with the same words, reach the plan."""
    demands = tmp_path / "demands.yaml"
    demands.write_text("context: 4096\ntiers: {heavy: {sequences: 8}}\n", encoding="utf-8")
    plan = document(
        config, "--gpus", "H100", "--demand", f"@{demands}", "--pin", "heavy=qwen2.5:32b", "--family", "qwen"
    )
    heavy = plan["tiers"]["heavy"]
    assert (heavy["model"], heavy["engine"]) == ("qwen2.5-32b-instruct", "vllm")
    assert heavy["context_tokens"] == 4096
    assert heavy["sequences"] >= 8
    assert all("qwen" in tier["model"] for tier in plan["tiers"].values())


@pytest.mark.parametrize(
    "gpus", ["RTX3070", "2xRTX4090", "4xRTX PRO 6000 Server", "8xH100", "cpu-16gb", "cpu-2gb"]
)
def test_the_table_fits_a_terminal(config: Path, gpus: str) -> None:
    """80 columns hold every line, and each tier, GPU and mode is on one of them."""
    done = run(config, "plan", "--gpus", gpus)
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > COLUMNS_MAX] == []
    if gpus != "cpu-2gb":
        assert {line.split(" ")[0] for line in lines} >= {"light", "standard", "heavy"}
    assert done.exit_code == (1 if gpus == "cpu-2gb" else 0)


def test_this_machine_can_be_planned(config: Path) -> None:
    """Whatever it is, it gets a plan."""
    plan = document(config)
    assert plan["inventory"]["measured"] is True
    assert plan["mode"] in ("resident", "swap", "cpu")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--gpus", "2xRTX4091"),
        ("--gpus", "H100", "--demand", "fast"),
        ("--gpus", "H100", "--pin", "heavy=qwen-9000"),
        ("--gpus", "H100", "--demand", "@/no/such/file"),
        ("--ram", "64"),
    ],
)
def test_what_is_not_understood_is_refused(config: Path, arguments: tuple[str, ...]) -> None:
    """Each is one sentence with what to do."""
    with pytest.raises(ConfigError):
        run(config, "plan", *arguments)


def test_a_plan_is_written_once(config: Path, tmp_path: Path) -> None:
    """--output never replaces a file; systemd's files go into a folder."""
    target = tmp_path / "compose.yaml"
    run(config, "plan", "--gpus", "H100", "--emit", "compose", "--output", str(target))
    assert yaml.safe_load(target.read_text(encoding="utf-8"))["services"]
    with pytest.raises(ConfigError, match="already"):
        run(config, "plan", "--gpus", "H100", "--emit", "compose", "--output", str(target))
    run(config, "plan", "--gpus", "H100", "--emit", "systemd", "--output", str(tmp_path / "etc"))
    assert (tmp_path / "etc" / "systemd" / "system" / "trivet.service").is_file()


def test_init_writes_a_configuration_that_works(config: Path, tmp_path: Path) -> None:
    """The file loads, its deployments can be built, and the next steps name it."""
    target = tmp_path / "trivet.yaml"
    done = run(config, "init", "--gpus", "RTX4090", "--output", str(target))
    assert done.stdout == ""
    assert f"trivet serve --config {target}" in done.stderr
    settings = load_settings(config_path=target, environ={}).settings
    assert len(build_deployments(settings)) == 3
    with pytest.raises(ConfigError, match="already"):
        run(config, "init", "--gpus", "RTX4090", "--output", str(target))
    again = json.loads(
        run(config, "init", "--gpus", "H100", "--output", str(target), "--force", "--json").stdout
    )
    assert again["path"] == str(target)
    assert again["plan"]["tiers"].keys() == {"light", "standard", "heavy"}


def test_init_writes_nothing_where_nothing_fits(config: Path, tmp_path: Path) -> None:
    """It says why instead, and fails."""
    target = tmp_path / "trivet.yaml"
    done = run(config, "init", "--gpus", "cpu-2gb", "--output", str(target))
    assert done.exit_code == 1
    assert not target.exists()


def test_what_engines_took_corrects_the_plan(tmp_path: Path) -> None:
    """--observed reads the file that the fleet keeps in its state directory."""
    config = tmp_path / "own.yaml"
    config.write_text(f"fleet: {{state_dir: {tmp_path}}}\n", encoding="utf-8")
    arguments = ("--gpus", "H100", "--demand", "sequences=8", "--pin", "heavy=Qwen/Qwen2.5-32B-Instruct-AWQ")
    start = {
        "engine": "vllm",
        "model": "Qwen/Qwen2.5-32B-Instruct-AWQ",
        "gpu": "NVIDIA H100 80GB HBM3",
        "tensor_parallel": 1,
        "weights_bytes": 20 * 1024**3,
        "observed_at": "2026-11-01T12:00:00+00:00",
    }
    (tmp_path / "observed.json").write_text(json.dumps({"one": start}), encoding="utf-8")
    plain, observed = (
        document(config, *arguments, *option)["tiers"]["heavy"] for option in ((), ("--observed",))
    )
    assert plain["observed_at"] is None
    assert observed["observed_at"] == start["observed_at"]
    assert observed["footprint"]["weights_gib"] == 20.0
