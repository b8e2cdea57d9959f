"""Many simulated worlds, one after the other: `scripts/simulate-ledger`."""

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import structlog

from trivet.lab.ledger_judge import Verdict
from trivet.lab.ledger_simulation import World, simulate

_SUMMED = (
    *("requests", "granted", "clamped", "exhausted", "contended", "too_large", "policy", "unavailable"),
    *("deaths", "left", "expired", "overspend", "leaked_holds"),
)


def live_through(requests: int, first_seed: int, *, requests_a_world: int = 1_000) -> dict[str, Any]:
    """Live through worlds until there were so many requests; every other one has the strict ladder.

    Returns:
        The sums, and what was found wrong by the seed that shows it again.
    """
    began_s, sums = time.monotonic(), Counter[str]()
    failing: list[Verdict] = []
    false_refusals, simulated_s, seed = 0, 0.0, first_seed
    while sums["requests"] < requests:
        ladder = "strict" if seed % 2 else "default"
        verdict = simulate(World(requests=requests_a_world, seed=seed, ladder=ladder))
        found = asdict(verdict)
        sums.update({name: found[name] for name in _SUMMED})
        false_refusals += len(verdict.false_refusals)
        simulated_s += verdict.simulated_s
        if not verdict.ok:
            failing.append(verdict)
        seed += 1
    return {
        **sums,
        "false_refusals": false_refusals,
        "violations": sum(len(each.violations) for each in failing),
        "worlds": seed - first_seed,
        "first_seed": first_seed,
        "simulated_s": round(simulated_s),
        "took_s": round(time.monotonic() - began_s, 1),
        "failing": [asdict(each) for each in failing[:5]],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Live through the worlds that are asked for; exit with 1 if a promise was broken in one of them."""
    parser = argparse.ArgumentParser(prog="scripts/simulate-ledger", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="in all worlds together (100000)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first world; a failing one is shown by its own"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    # What goes wrong on purpose is no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = live_through(options.requests, options.seed)
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:16} {value}" for name, value in found.items()))
    sys.exit(1 if found["failing"] else 0)


if __name__ == "__main__":
    main()
