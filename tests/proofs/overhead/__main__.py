"""What Trivet costs beside a bare relay and the LiteLLM proxy, in one run on this machine.

Usage: `scripts/bench-overhead --help`.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.proofs.overhead import figures, targets
from tests.proofs.overhead.figures import Place
from tests.proofs.overhead.load import Goal, Reading, measure
from tests.proofs.servers import heed_signals
from trivet.version import __version__

MODES = ("plain", "stream")
SHARES_CONCURRENCY = 16


def bench_overhead(
    chosen: Sequence[str],
    *,
    modes: Sequence[str] = MODES,
    concurrencies: Sequence[int] = (1, 16, 64),
    seconds: float = 3.0,
    rounds: int = 3,
    gap_ms: float = 0.0,
    shares: bool = True,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Measure the chosen targets, interleaved, in so many rounds.

    Args:
        chosen: of trivet, relay, litellm; the engine without any of them is always measured along.
        modes: of plain, stream.
        concurrencies: callers at once, each with a connection of its own.
        seconds: of each run.
        rounds: how often everything is measured.
        gap_ms: the engine's pause after each piece of a stream.
        shares: whether to sample what part of Trivet's processor time is whose.
        directory: where the store is made; by default where temporary files are.

    Returns:
        rows, ratios, bars, shares, upstream, counts, and what was asked.
    """
    cores, load = targets.Cores(), os.getloadavg()[0]
    found: dict[Place, list[Reading]] = {}
    with tempfile.TemporaryDirectory(prefix="trivet-bench-", dir=directory) as place:
        where = Path(place)
        with targets.Programs(where) as programs:
            cores.of_load()
            try:
                goals = _start(programs, chosen, cores, where, gap_ms)
                for number in range(rounds):
                    for at in _places(goals, modes, concurrencies):
                        _say(f"round {number + 1}/{rounds}: {at.target}, {at.mode}, {at.concurrency} callers")
                        found.setdefault(at, []).append(_measured(goals[at.target], at, seconds))
                sampled = (
                    _sampled(programs, goals["upstream"], cores, where, modes, seconds)
                    if shares and "trivet" in chosen
                    else {}
                )
            finally:
                cores.release()
    rows, ratios = figures.rows_of(found), figures.ratios_of(found)
    return {
        "rows": [row for row in rows if row["target"] != "upstream"],
        "upstream": [row for row in rows if row["target"] == "upstream"],
        "ratios": ratios,
        "bars": figures.verdicts(ratios),
        "shares": sampled,
        "counts": figures.counts(ratios),
        "asked": {"seconds": seconds, "rounds": rounds, "gap_ms": gap_ms, "pinned": cores.pinned},
        "version": __version__,
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }


def _start(
    programs: targets.Programs, chosen: Sequence[str], cores: targets.Cores, where: Path, gap_ms: float
) -> dict[str, Goal]:
    goals = {"upstream": targets.start_upstream(programs, gap_ms=gap_ms)}
    url = goals["upstream"].url
    with cores.of_servers():
        for name in chosen:
            _say(f"starting {name}")
            if name == "relay":
                goals[name] = targets.start_relay(programs, url)
            elif name == "litellm":
                goals[name] = targets.start_litellm(programs, url, where)
            else:
                goals[name] = targets.start_trivet(programs, url, where)
    return goals


def _places(goals: Mapping[str, Goal], modes: Sequence[str], concurrencies: Sequence[int]) -> Iterable[Place]:
    for concurrency in concurrencies:
        for mode in modes:
            for target in goals:
                yield Place(target, mode, concurrency)


def _measured(goal: Goal, at: Place, seconds: float) -> Reading:
    return asyncio.run(measure(goal, stream=at.mode == "stream", concurrency=at.concurrency, seconds=seconds))


def _sampled(
    programs: targets.Programs,
    upstream: Goal,
    cores: targets.Cores,
    where: Path,
    modes: Sequence[str],
    seconds: float,
) -> dict[str, dict[str, float]]:
    """Run a Trivet of its own under the sampler, which would disturb what the other measures."""
    shares: dict[str, dict[str, float]] = {}
    path = where / "shares.json"
    sampler = [sys.executable, "-m", "tests.proofs.overhead.sampling", str(path)]
    with cores.of_servers():
        goal = targets.start_trivet(programs, upstream.url, where, name="sampled", wrapped=sampler)
    assert goal.pid is not None
    for mode in modes:
        _say(f"sampling trivet, {mode}")
        at = Place("trivet", mode, SHARES_CONCURRENCY)
        _measured(goal, at, 0.5)  # everything imported, every connection made
        os.kill(goal.pid, signal.SIGUSR1)
        _measured(goal, at, seconds)
        os.kill(goal.pid, signal.SIGUSR2)
        while not path.exists():
            time.sleep(0.02)
        shares[mode] = json.loads(path.read_text())
        path.unlink()
    return shares


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench-overhead", description=__doc__)
    parser.add_argument(
        "--targets",
        default="trivet,relay,litellm",
        help="of trivet, relay, litellm, by commas; without litellm nothing is installed",
    )
    parser.add_argument("--modes", default="plain,stream", help="of plain, stream, by commas")
    parser.add_argument("--concurrency", default="1,16,64", help="callers at once, by commas")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured, interleaved")
    parser.add_argument(
        "--gap-ms", type=float, default=0.0, help="the engine's pause after each piece of a stream"
    )
    parser.add_argument("--no-shares", action="store_true", help="do not sample whose the processor time is")
    parser.add_argument("--directory", type=Path, help="where the ledger's file is made")
    parser.add_argument("--json", action="store_true")
    return parser


def main() -> None:
    """Run the bench from the command line."""
    parser = _parser()
    asked = parser.parse_args()
    chosen, modes = asked.targets.split(","), asked.modes.split(",")
    if set(chosen) - {"trivet", "relay", "litellm"} or set(modes) - set(MODES):
        parser.error("targets are trivet, relay, litellm; modes are plain, stream.")
    heed_signals()
    result = bench_overhead(
        chosen,
        modes=modes,
        concurrencies=[int(each) for each in asked.concurrency.split(",")],
        seconds=asked.seconds,
        rounds=asked.rounds,
        gap_ms=asked.gap_ms,
        shares=not asked.no_shares,
        directory=asked.directory,
    )
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if asked.json else figures.markdown(result))


if __name__ == "__main__":
    main()
