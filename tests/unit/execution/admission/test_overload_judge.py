"""The judge of overloads: each bar that is missed is named, none that is kept."""

import copy
from dataclasses import asdict
from typing import Any

import pytest

from tests.proofs.overload import Plan, Seen, judged, missed

PLAN = Plan(seconds=60.0)
ENGINE = {"served": 500, "running_most": 32, "waiting_most": 1, "refused": 0}
GATE = {"queued_most": 60, "shed": {"batch": 500, "interactive": 900, "critical": 0}}


def overload() -> dict[str, Any]:
    """Return the figures of an overload as it should be: the engine is busy throughout."""
    idle = Seen(first_ms={"critical": [1000.0] * 40})
    over = Seen(first_ms={"critical": [1100.0] * 40}, ends_s=[index / 8 for index in range(480)])
    return judged(PLAN, idle, 8.0, over, ENGINE, GATE)


def test_an_overload_as_it_should_be_misses_nothing() -> None:
    """The goodput is that of the seconds after the queue has filled."""
    figures = overload()
    assert figures["missed"] == []
    assert (figures["goodput_ratio"], figures["ttft_ratio"], figures["shed"]) == (0.997, 1.1, 1400)
    assert figures["plan"] == asdict(PLAN)


@pytest.mark.parametrize(
    ("change", "bar"),
    [
        ({"goodput_ratio": 0.89}, "goodput"),
        ({"ttft_ratio": 1.51}, "critical_ttft"),
        ({"queue_max": 200}, "queue"),
        ({"engine": ENGINE | {"running_most": 33}}, "engine_queue"),
        ({"critical_refused": 1}, "critical_refused"),
        ({"failures": {"ClientError": 1}}, "failures"),
        ({"shed": 0}, "shed"),
        ({"refused_late": 11}, "refused_late"),
    ],
)
def test_each_bar_that_is_missed_is_named(change: dict[str, Any], bar: str) -> None:
    """One figure beyond its bar is enough, and the others are not blamed."""
    assert missed(copy.deepcopy(overload()) | change) == [bar]
