"""Thousands of requests in front of engines of which each fails some of them: `scripts/fault-storm`.

Every request tells every engine how to fail it, or not to, by a seeded die; so it is known beforehand
whether a healthy candidate exists and what its client may see. The engines are three fault servers, one for
each tier; requests are plain and streamed, and a few clients go away amid their answer.
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.doubles.programs import Programs
from tests.proofs.fault_clients import ENGINES, Sight, storm_of_faults
from tests.proofs.provenance import provenance
from tests.proofs.servers import COMPLEXITY, PEPPER, TIERS, WEIGHTS, Server, heed_signals, make_admin_key
from tests.proofs.storm import ask
from trivet.storage.database import Database

LIMITS = {"deadline_s": 30.0, "first_content_timeout_s": 5.0, "idle_timeout_s": 5.0}
SETTLED_WITHIN_S = 30.0
CLOCK_TOLERANCE = 0.005
"""Of the busy time: attempts are dated microseconds before the clock counts them; more on a busy machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One storm of faults."""

    requests: int = 10_000
    clients: int = 32
    seed: int = 1
    fault_rate: float = 0.05
    transport: str = "relay"
    silence: bool = True
    """Whether engines also fall silent, before their first content and amid an answer."""


def tiers_of(urls: Sequence[str], transport: str) -> list[dict[str, Any]]:
    """Return three tiers of one engine each, as a configuration has them."""
    return [
        {
            "name": tier,
            "cost_weight": WEIGHTS[tier],
            "complexity": list(COMPLEXITY[tier]),
            "max_output_tokens": 64,
            "deployments": [
                {
                    "name": engine,
                    "model": f"openai/{engine}",
                    "url": f"{url}/v1",
                    "transport": transport,
                    "context_tokens": 4096,
                    "slots": 1024,
                    "local": True,
                    "devices": ["host"],
                }
            ],
        }
        for tier, engine, url in zip(TIERS, ENGINES, urls, strict=True)
    ]


def storm(plan: Plan) -> dict[str, Any]:
    """Run one storm against a server of its own and return its figures."""
    programs = Programs()
    with tempfile.TemporaryDirectory(prefix="trivet-fault-storm-") as folder:
        home = Path(folder)
        store = home / "trivet.db"
        try:
            urls = [programs.start_fault_server().url for _ in ENGINES]
            tree = {
                "store": {"path": str(store)},
                "access": {"pepper": PEPPER},
                "logging": {"level": "warning"},
                "execution": LIMITS,
                "budgets": {"default_daily_tokens": None, "default_monthly_tokens": None},
                "tiers": tiers_of(urls, plan.transport),
            }
            (home / "trivet.yaml").write_text(yaml.safe_dump(tree))
            with Database.open(store) as database:
                key = make_admin_key(database, store)
            server = Server(home / "trivet.yaml", home / "serve.log")
            try:
                server.start()
                begun_s = time.monotonic()
                sight = asyncio.run(sent(plan, server.url, key))
                took_s = time.monotonic() - begun_s
                return figures_of(plan, sight, judged(server.url, key, store), took_s)
            finally:
                server.stop()
        finally:
            programs.stop()


async def sent(plan: Plan, url: str, key: str) -> Sight:
    """Send a plan's requests to a server."""
    return await storm_of_faults(
        url,
        key,
        requests=plan.requests,
        clients=plan.clients,
        seed=plan.seed,
        fault_rate=plan.fault_rate,
        silence=plan.silence,
    )


def judged(url: str, key: str, store: Path) -> dict[str, Any]:
    """Return what the books say once all requests are over. Blocks."""
    give_up_s = time.monotonic() + SETTLED_WITHIN_S
    while (held := open_holds(store)) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    savings = ask(f"{url}/api/v1/savings", key)
    return {
        "stuck_holds": held,
        "verified": bool(ask(f"{url}/api/v1/ledger/verify", key, method="POST")["ok"]),
        # What the requests were given of the devices' time, against the union of when they ran.
        "clock_drift_s": round(abs(savings["attributed"] - savings["busy_check"]), 6),
        "busy_s": savings["busy_check"],
    }


def open_holds(store: Path) -> int:
    """Return how many reservations are open."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
        return int(database.execute("SELECT count(*) FROM reservations WHERE state = 'held'").fetchone()[0])


def figures_of(plan: Plan, sight: Sight, books: dict[str, Any], took_s: float) -> dict[str, Any]:
    """Return all figures of a storm."""
    latencies = sight.latencies_ms or [0.0]
    return {
        **asdict(plan),
        "ok": sight.ok,
        "left": sight.left,
        "fallbacks": sight.fallbacks,
        "honest_cuts": sight.honest_cuts,
        "honest_failures": dict(sight.honest_failures),
        "stuck_holds": books["stuck_holds"],
        "cut_streams_ended_as_success": sight.cut_streams_ended_as_success,
        "client_failures_with_healthy_candidate": sight.client_failures_with_healthy_candidate,
        "verified": books["verified"],
        "clock_drift_s": books["clock_drift_s"],
        "busy_s": books["busy_s"],
        "seconds": round(took_s, 1),
        "p50_ms": round(statistics.median(latencies), 1),
        "examples": sight.examples,
        **provenance(plan.seed),
    }


def is_clean(figures: dict[str, Any]) -> bool:
    """Tell whether a storm reached the bars."""
    return bool(
        figures["stuck_holds"] == 0
        and figures["cut_streams_ended_as_success"] == 0
        and figures["client_failures_with_healthy_candidate"] == 0
        and figures["verified"]
        and figures["clock_drift_s"] <= CLOCK_TOLERANCE * figures["busy_s"]
    )


def parsed(arguments: Sequence[str] | None = None) -> tuple[Plan, bool]:
    """Read the command line; exits with a usage message where it cannot be meant."""
    parser = argparse.ArgumentParser(prog="scripts/fault-storm", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32, help="requests at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault-rate", type=float, default=0.05, help="part that an engine fails")
    parser.add_argument("--transport", choices=("relay", "litellm"), default="relay")
    parser.add_argument("--no-silence", dest="silence", action="store_false", help="no engine falls silent")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    told = vars(parser.parse_args(arguments))
    as_json = bool(told.pop("json"))
    if told["requests"] < 1 or told["clients"] < 1 or not 0 <= told["fault_rate"] <= 1:
        parser.error("requests and clients are at least 1, the fault rate lies between 0 and 1")
    return Plan(**told), as_json


def main() -> None:
    """Run one storm; exit with 1 if it did not reach the bars."""
    plan, as_json = parsed()
    heed_signals()
    figures = storm(plan)
    if as_json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:40} {value}" for name, value in figures.items()))
    raise SystemExit(0 if is_clean(figures) else 1)


if __name__ == "__main__":
    main()
