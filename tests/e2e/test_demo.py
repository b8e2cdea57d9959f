"""The demo, as a new user runs it; its bars are this project's first promise."""

import json
import os
import subprocess
import sys

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
