"""The demo, as a new user runs it; its bars are this project's first promise."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TIERS = {"light", "standard", "heavy"}


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    """What `trivet demo --once --json` prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRIVET_")}
    done = subprocess.run(
        [sys.executable, "-m", "trivet", "demo", "--once", "--json", "--port", "0"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_traffic(report: dict[str, object]) -> None:
    """All requests are accounted for, every tier served, something fell back, something was refused."""
    by_tier: dict[str, int] = report["by_tier"]  # type: ignore[assignment]
    assert report["errors"] == 0
    assert set(by_tier) == TIERS
    assert min(by_tier.values()) > 0
    assert sum(by_tier.values()) + int(str(report["refused"])) == report["requests"]
    assert int(str(report["fallbacks"])) >= 1
    assert int(str(report["refused"])) >= 1


def test_budgets(report: dict[str, object]) -> None:
    """No tenant is over its limit and nothing is held."""
    tenants: list[dict[str, int]] = report["tenants"]  # type: ignore[assignment]
    assert tenants
    assert [tenant for tenant in tenants if tenant["used"] > tenant["limit"] or tenant["held"]] == []


def test_device_clock(report: dict[str, object]) -> None:
    """Attributed time adds up to busy time, and busy time to the union of the recorded intervals."""
    seconds: dict[str, float] = report["engine_seconds"]  # type: ignore[assignment]
    assert seconds["attributed"] == pytest.approx(seconds["busy"], rel=0.001)
    assert seconds["busy"] == pytest.approx(seconds["busy_check"], rel=0.01)
    assert seconds["busy"] <= seconds["wall_times_devices"]
    assert seconds["saved"] == pytest.approx(seconds["baseline"] - seconds["actual"], abs=1e-3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_in_the_middle(tmp_path: Path, number: signal.Signals) -> None:
    """Whoever stops it, nothing is left behind."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRIVET_")}
    demo = subprocess.Popen(
        [sys.executable, "-m", "trivet", "demo", "--once", "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    try:
        give_up = time.monotonic() + 60
        while not list(tmp_path.glob("trivet-demo-*/trivet.db.lock")) and time.monotonic() < give_up:
            time.sleep(0.05)
        demo.send_signal(number)
        assert demo.wait(timeout=60) == 130
    finally:
        demo.kill()
        demo.wait()
    assert list(tmp_path.iterdir()) == []
