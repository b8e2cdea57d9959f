"""The bench of Trivet's own cost, in small: its parts work, and its figures are what they say."""

import sys

import pytest

from tests.doubles.programs import free_port
from tests.proofs.overhead import figures, sampling
from tests.proofs.overhead.__main__ import bench_overhead
from tests.proofs.overhead.figures import Place
from tests.proofs.overhead.load import Goal, Reading, WrongAnswer, measure
from tests.proofs.overhead.upstream import PLAIN, Engine
from trivet.routing.fields import nesting_depth


def reading(rate: float, cpu_ms: float = 1.0, p50_ms: float = 1.0) -> Reading:
    """Return what a run might have shown."""
    return Reading(
        requests_per_s=rate, cpu_ms=cpu_ms, p50_ms=p50_ms, p99_ms=p50_ms, rss_mb=100.0, requests=int(rate)
    )


def test_measures_trivet_beside_the_relay() -> None:
    """Both are started, asked plain and streamed, and every answer is checked."""
    result = bench_overhead(["relay", "trivet"], concurrencies=[2], seconds=0.05, rounds=1, shares=False)
    assert [(row["target"], row["mode"]) for row in result["rows"]] == [
        *(("relay", "plain"), ("trivet", "plain"), ("relay", "stream"), ("trivet", "stream"))
    ]
    for row in [*result["rows"], *result["upstream"]]:
        assert row["requests_per_s"] > 0
        assert row["rss_mb"] > 10
    assert result["ratios"]["plain_c2_rate_vs_relay"]["median"] > 0
    assert "| trivet | stream | 2 |" in figures.markdown(result)


async def test_a_wrong_answer_is_no_figure() -> None:
    """An answer that lacks a part of its content ends the run."""

    class Forgetful(Engine):
        plain = PLAIN.replace(b"lorem", b"ipsum", 1)

    port = free_port()
    server = await Forgetful().serve(port)
    async with server:
        with pytest.raises(WrongAnswer, match="ipsum"):
            await measure(Goal(url=f"http://127.0.0.1:{port}"), stream=False, concurrency=2, seconds=5.0)


def test_ratios_are_taken_within_a_round() -> None:
    """Each ratio compares what was measured side by side; its median stands beside its extremes."""
    rounds = {
        Place("upstream", "plain", 16): [reading(10_000), reading(40_000)],
        Place("relay", "plain", 16): [reading(2_000, 0.5), reading(4_000, 0.5)],
        Place("trivet", "plain", 16): [reading(1_000, 1.0, 3.0), reading(1_000, 1.5, 2.0)],
        Place("litellm", "plain", 16): [reading(100, 10.0, 21.0), reading(50, 30.0, 11.0)],
    }
    ratios = figures.ratios_of(rounds)
    assert ratios["plain_c16_rate_vs_relay"] == {"median": 0.375, "min": 0.25, "max": 0.5}
    assert ratios["plain_c16_rate_vs_litellm"] == {"median": 15.0, "min": 10.0, "max": 20.0}
    assert ratios["plain_c16_cpu_litellm_vs_trivet"]["max"] == 20.0
    assert ratios["plain_c16_added_p50_litellm_vs_trivet"]["median"] == 10.0
    assert ratios["rss_mb"]["max"] == 100.0
    assert figures.counts(ratios) is True
    met = {verdict["ratio"]: verdict["met"] for verdict in figures.verdicts(ratios)}
    assert met == {"plain_c16_rate_vs_litellm": False, "plain_c16_rate_vs_relay": False, "rss_mb": True}


def test_a_run_beside_a_busy_machine_does_not_count() -> None:
    """Where the relay comes nowhere near the engine, the figures are of something else."""
    rounds = {Place("upstream", "plain", 16): [reading(1000)], Place("relay", "plain", 16): [reading(100)]}
    assert figures.counts(figures.ratios_of(rounds)) is False
    assert figures.counts({}) is None


def test_a_sample_belongs_to_the_innermost_room() -> None:
    """What the routing calls is the decision's; what none of Trivet's code called is the wire's."""
    found: list[str] = []

    class Watched(dict[str, object]):
        def values(self) -> object:  # type: ignore[override]
            found.append(sampling.owner_of(sys._getframe()))
            return ()

    nesting_depth(Watched())
    assert found == ["decision"]
    assert sampling.owner_of(None) == "relay"
