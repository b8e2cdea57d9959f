"""The table that `scripts/swap-sim` prints: a swap group against first come, first served."""

import argparse
import json
import logging
from collections.abc import Sequence
from typing import Any

import structlog

from trivet.config.settings import SwapSettings
from trivet.fleet.residency import Rules
from trivet.lab.swap_simulation import (
    Arrival,
    Engines,
    at_random,
    first_come_first_served,
    in_turn,
    simulate,
)

GAPS_S = (0.5, 1.0, 2.0, 5.0, 8.0, 20.0)
SWAPS_S = (1.0, 5.0, 20.0)
SEED = 7


def rows(count: int, rules: Rules) -> list[dict[str, Any]]:
    """Return a row per kind of traffic, gap and swap time: swaps, longest and mean wait of both ways."""
    traffics: dict[str, Sequence[tuple[float, list[Arrival]]]] = {
        "in turn": [(gap_s, in_turn(count, gap_s=gap_s, runs_s=1.0)) for gap_s in GAPS_S],
        "at random": [(gap_s, at_random(count, gap_s=gap_s, runs_s=1.0, seed=SEED)) for gap_s in GAPS_S],
        "9 of 10 for one": [
            (gap_s, at_random(count, gap_s=gap_s, runs_s=1.0, seed=SEED, share=0.9)) for gap_s in GAPS_S
        ],
    }
    found = []
    for traffic, gaps in traffics.items():
        for swap_s in SWAPS_S:
            engines = Engines(bring_s=0.8 * swap_s, release_s=0.2 * swap_s)
            for gap_s, arrivals in gaps:
                ours, naive = simulate(arrivals, engines, rules), first_come_first_served(arrivals, engines)
                found.append(
                    {
                        "traffic": traffic,
                        "swap_s": swap_s,
                        "gap_s": gap_s,
                        "swaps": ours.swaps,
                        "longest_wait_s": round(ours.longest_wait_s, 1),
                        "mean_wait_s": round(ours.mean_wait_s, 1),
                        "fcfs_swaps": naive.swaps,
                        "fcfs_longest_wait_s": round(naive.longest_wait_s, 1),
                        "fcfs_mean_wait_s": round(naive.mean_wait_s, 1),
                    }
                )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| traffic | swap takes | request every | swaps | longest wait | mean | FCFS | longest | mean |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['traffic']} | {row['swap_s']:g} s | {row['gap_s']:g} s "
        f"| **{row['swaps']}** | {row['longest_wait_s']} s | {row['mean_wait_s']} s "
        f"| {row['fcfs_swaps']} | {row['fcfs_longest_wait_s']} s | {row['fcfs_mean_wait_s']} s |"
        for row in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the options and print."""
    defaults = SwapSettings()
    parser = argparse.ArgumentParser(prog="scripts/swap-sim", description=__doc__)
    parser.add_argument("--requests", type=int, default=400, help="per row (400)")
    parser.add_argument("--minimum-residency-s", type=float, default=defaults.minimum_residency_s)
    parser.add_argument("--max-wait-s", type=float, default=defaults.max_wait_s)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rules = Rules(minimum_residency_s=options.minimum_residency_s, max_wait_s=options.max_wait_s)
    found = rows(options.requests, rules)
    print(json.dumps(found, indent=1) if options.json else table(found))


if __name__ == "__main__":
    main()
