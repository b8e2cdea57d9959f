"""Drain one budget from many clients at once and judge the books: `scripts/storm`.

At the level `server` the clients speak HTTP to whole servers in front of an engine that counts its own
tokens: one `trivet serve` on SQLite, two on PostgreSQL. At the level `ledger` they ask the supervisor of
holds itself: on SQLite in one process, on PostgreSQL in as many as told.
"""

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.doubles.programs import Programs
from tests.proofs.clients import PROMPT_BYTES, Orders, Refusal
from tests.proofs.ledger_clients import MINIMUM_OUTPUT, PROMPT, LedgerOrders
from tests.proofs.oracle import History, false_refusals
from tests.proofs.provenance import REPOSITORY, provenance
from tests.proofs.servers import Server, heed_signals, make_admin_key, write_config
from trivet.budgets.verify import verify
from trivet.domain.budgets import LimitKind
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.storage.database import Database
from trivet.storage.postgres import PostgresDatabase

ORGANISATION = "acme"
TEAMS = tuple(f"acme.t{team}" for team in range(3))
SCOPES = tuple(f"{team}.u{user}" for team in TEAMS for user in range(4))
WINDOW: LimitKind = "total"
"""Has no end, so that no storm runs over midnight."""
TOKENS_A_CLIENT = 900
CLIENTS_WITHIN_S = 1_200.0
"""After which clients that have not come to their end are a failure of the storm."""
HONEST_FAILURES = {"budget_store_unavailable", "503 budget_store_unavailable"}
"""What a store that is too slow for its load makes of a request: counted, but no fault of the books."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One storm."""

    store: str
    processes: int
    clients: int
    seed: int
    level: str = "server"
    ladder: str = "default"
    mode: str = "mixed"
    limit_min: int = 40_000

    @property
    def limit(self) -> int:
        """Return the organisation's limit; a team may use half of it, all three together more than it."""
        return max(self.limit_min, TOKENS_A_CLIENT * self.clients)


@dataclass(slots=True)
class Seen:
    """What clients and engine say of a storm, all together."""

    requests: int = 0
    served: int = 0
    policy_refusals: int = 0
    worked_by: dict[str, int] = field(default_factory=dict)
    """Tokens that the engine counted, by tenant."""
    minimum_hold: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, told: dict[str, Any]) -> None:
        """Add what one process of clients has told."""
        self.requests += told["requests"]
        self.served += told["served"]
        self.policy_refusals += told["policy_refusals"]
        self.refusals += [Refusal(**each) for each in told["refusals"]]
        self.latencies_ms += told["latencies_ms"]
        for why, count in told["failures"].items():
            self.failures[why] = self.failures.get(why, 0) + count


def storm(plan: Plan, *, postgres: ScratchPostgres | None = None) -> dict[str, Any]:
    """Run a storm and return its figures; on PostgreSQL on a server of its own, or in the given one."""
    with tempfile.TemporaryDirectory(prefix="trivet-storm-") as directory:
        place = Path(directory)
        with _store(plan.store, place, postgres) as (settings, opened):
            with opened() as database:
                seen = Seen()
                key = make_admin_key(database, place / "trivet.db")
            if plan.level == "server":
                with _serving(plan, settings, place) as (urls, engine_url):
                    _set_limits(urls[0], key, limits_of(plan))
                    seen.minimum_hold = minimum_hold(urls[0], key)
                    _let_loose(plan, urls, key, seen)
                    seen.worked_by = ask(f"{engine_url}/count")["tokens"]
            else:
                seen.minimum_hold = PROMPT + MINIMUM_OUTPUT
                _call_the_ledger(plan, settings, seen)
            with opened() as database:
                return judge(plan, seen, database)


def judge(plan: Plan, seen: Seen, database: Database) -> dict[str, Any]:
    """Return the figures of a storm that is over."""
    history = database.read(History.read)
    report = database.read(verify)
    limits = limits_of(plan)
    beyond = max(0, sum(seen.worked_by.values()) - plan.limit)
    settled = history.used((ORGANISATION, WINDOW))
    wrong = false_refusals(history, seen.refusals, seen.minimum_hold)
    return {
        "requests": seen.requests,
        "limit": plan.limit,
        "settled": settled,
        "overspend": beyond,
        "false_refusals": len(wrong),
        "policy_refusals": seen.policy_refusals,
        "unspent": plan.limit - settled,
        "minimum_hold": seen.minimum_hold,
        "leaked_holds": sum(life.ended_ns is None for life in history.lives.values()),
        "served": seen.served,
        "worked": sum(seen.worked_by.values()),
        "capacity_refusals": len(seen.refusals),
        "contended_refusals": sum(each.code == "budget_contended" for each in seen.refusals),
        "failures": seen.failures,
        "beyond_any_limit": max(max(0, history.most((scope, WINDOW)) - limits[scope]) for scope in limits),
        "verified": report.ok,
        "false_refusal_examples": wrong[:3],
        **provenance(plan.seed),
        "plan": asdict(plan),
    }


@contextlib.contextmanager
def _store(kind: str, place: Path, postgres: ScratchPostgres | None) -> Iterator[tuple[dict[str, Any], Any]]:
    """Give the settings of an empty store, and how to open it."""
    if kind == "sqlite":
        path = place / "trivet.db"
        yield {"path": str(path)}, lambda: Database.open(path)
        return
    with contextlib.ExitStack() as exits:
        server = postgres or exits.enter_context(ScratchPostgres(durable=True))
        url = server.new_database()
        yield {"url": url}, lambda: PostgresDatabase.at(url)


@contextlib.contextmanager
def _serving(plan: Plan, store: dict[str, Any], place: Path) -> Iterator[tuple[list[str], str]]:
    """Give the URLs of the servers and of the engine behind them."""
    programs = Programs()
    count = 1 if plan.store == "sqlite" else 2
    servers = [Server(place / f"{number}.yaml", place / f"{number}.log") for number in range(count)]
    try:
        engine = programs.start("tests.doubles.counting_engine", "--seed", str(plan.seed))
        for number, server in enumerate(servers):
            # Beside its path each replica keeps what is its own.
            own = store if "path" in store else {**store, "path": str(place / str(number) / "trivet.db")}
            write_config(server.config, engine_url=engine.url, store=own, ladder=plan.ladder)
            server.start()
        yield [server.url for server in servers], engine.url
    finally:
        for server in servers:
            server.stop()
        programs.stop()


def _let_loose(plan: Plan, urls: list[str], key: str, seen: Seen) -> None:
    """Run the processes of clients to their end."""
    shares = shares_of(plan.clients, plan.processes)
    running = []
    for first, share in shares:
        orders = Orders(
            urls=urls,
            key=key,
            organisation=ORGANISATION,
            scopes=list(SCOPES),
            first_client=first,
            clients=share,
            seed=plan.seed,
            mode=plan.mode,
        )
        running.append(started("tests.proofs.clients", orders))
    for tally in results_of(running):
        seen.add(tally)


def started(module: str, orders: Orders | LedgerOrders) -> "subprocess.Popen[bytes]":
    """Start a process of clients; its standard input stays open."""
    process = subprocess.Popen(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(orders)).encode() + b"\n")
    process.stdin.flush()
    return process


def _call_the_ledger(plan: Plan, store: dict[str, Any], seen: Seen) -> None:
    """Run the processes that call the ledger, to their end."""
    running = []
    for first, share in shares_of(plan.clients, plan.processes):
        orders = LedgerOrders(
            path=store.get("path"),
            url=store.get("url"),
            organisation=ORGANISATION,
            scopes=list(SCOPES),
            limits=limits_of(plan),
            window=WINDOW,
            ladder=plan.ladder,
            first_client=first,
            clients=share,
            seed=plan.seed,
        )
        running.append(started("tests.proofs.ledger_clients", orders))
    for tally in results_of(running):
        seen.add(tally)
        for tenant, tokens in tally["worked"].items():
            seen.worked_by[tenant] = seen.worked_by.get(tenant, 0) + tokens


def results_of(running: Sequence["subprocess.Popen[bytes]"]) -> list[dict[str, Any]]:
    """Wait for processes of clients and return what they tell; where one fails, all end."""
    results = []
    try:
        for process in running:
            told, _ = process.communicate(timeout=CLIENTS_WITHIN_S)
            if process.returncode:
                raise RuntimeError("a process of clients failed")
            results.append(json.loads(told))
    finally:
        for process in running:
            process.kill()
            process.wait()
    return results


def limits_of(plan: Plan) -> dict[str, int]:
    """Return the limits by scope."""
    return {ORGANISATION: plan.limit, **dict.fromkeys(TEAMS, plan.limit // 2)}


def shares_of(clients: int, processes: int) -> list[tuple[int, int]]:
    """Return the first client and the number of clients of each process that has any."""
    bounds = [clients * part // processes for part in range(processes + 1)]
    return [(first, after - first) for first, after in itertools.pairwise(bounds) if after > first]


def _set_limits(url: str, key: str, limits: dict[str, int]) -> None:
    for scope, amount in limits.items():
        ask(f"{url}/api/v1/budgets/{scope}", key, {WINDOW: amount}, method="PUT")


def minimum_hold(url: str, key: str) -> int:
    """Return the least that any of the clients' requests would hold: the prompt's ceiling and 64 tokens."""
    text = f"{ORGANISATION} 1-1 ".ljust(PROMPT_BYTES, ".")
    body = {"model": "light", "messages": [{"role": "user", "content": text}], "max_tokens": 64}
    return int(ask(f"{url}/api/v1/route", key, body)["estimated"]["prompt_tokens"]) + 64


def ask(url: str, key: str = "", body: object = None, method: str | None = None) -> Any:
    """Send a request with a JSON body, if any, and return the JSON of the answer."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def parsed(arguments: Sequence[str] | None = None) -> tuple[Plan, bool]:
    """Read the command line; exits with a usage message where it cannot be meant."""
    parser = argparse.ArgumentParser(prog="scripts/storm", description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--processes", type=int, default=1, help="processes that make load")
    parser.add_argument("--clients", type=int, default=32, help="clients in all of them together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--level", choices=("server", "ledger"), default="server")
    parser.add_argument("--ladder", choices=("default", "strict"), default="default")
    parser.add_argument("--mode", choices=("plain", "stream", "mixed"), default="mixed")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    told = vars(parser.parse_args(arguments))
    as_json = bool(told.pop("json"))
    plan = Plan(**told)
    if plan.level == "ledger" and plan.store == "sqlite" and plan.processes > 1:
        parser.error("SQLite has one owner: --level ledger takes --processes 1 there")
    if plan.processes < 1 or plan.clients < 1:
        parser.error("there must be at least one process and one client")
    return plan, as_json


def is_clean(figures: dict[str, Any]) -> bool:
    """Tell whether a storm reached the bars."""
    return (
        figures["overspend"] == figures["false_refusals"] == figures["leaked_holds"] == 0
        and figures["beyond_any_limit"] == 0
        and 0 <= figures["unspent"] <= figures["minimum_hold"]
        and figures["verified"]
        and not figures["failures"].keys() - HONEST_FAILURES
    )


def main() -> None:
    """Run one storm; exit with 1 if it did not reach the bars."""
    plan, as_json = parsed()
    heed_signals()
    figures = storm(plan)
    if as_json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in figures.items()))
    raise SystemExit(0 if is_clean(figures) else 1)


if __name__ == "__main__":
    main()
