"""Kill a server under load again and again and judge the books: `scripts/kill-storm`, on SQLite.

The engine and the clients live on. Every other life is ended at a random moment, the others at a named
failpoint, from the first to the last; a life that is to die `during_sweep` dies while it charges what the one
before it held. Two replicas on PostgreSQL: `replica_kills`.
"""

import contextlib
import math
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.doubles.programs import Programs
from tests.proofs.clients import OUTPUTS, Orders
from tests.proofs.provenance import provenance
from tests.proofs.servers import Server, make_admin_key, write_config
from tests.proofs.storm import ask, minimum_hold, started
from trivet.budgets.verify import verify
from trivet.domain.failpoints import FAILPOINTS
from trivet.storage.database import Database

ORGANISATION = "acme"
LIMIT = 60_000
SCOPES = tuple(f"{ORGANISATION}.t{team}" for team in range(3))
LIFE_MAX_S = 0.8
"""How long a life that dies at random has load."""
FAILPOINT_PATIENCE_S = 4.0
"""After which a life that has not come to its failpoint is ended all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillPlan:
    """How often, from which seed, under how many clients."""

    kills: int
    seed: int
    store: str = "sqlite"
    clients: int = 16
    within_s: float = math.inf
    """After which no further life begins."""


@dataclass(slots=True)
class Toll:
    """What was seen from life to life."""

    kills: dict[str, int] = field(default_factory=dict)
    recoveries_s: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def killed(self, how: str) -> None:
        """Count a death."""
        self.kills[how] = self.kills.get(how, 0) + 1

    @property
    def count(self) -> int:
        """Return how many deaths there were."""
        return sum(self.kills.values())


def kill_storm(plan: KillPlan) -> dict[str, Any]:
    """Run a storm of kills and return its figures."""
    toll = Toll()
    with tempfile.TemporaryDirectory(prefix="trivet-kills-") as directory:
        place = Path(directory)
        store = place / "trivet.db"
        with Database.open(store) as database:
            key = make_admin_key(database, store)
        programs = Programs()
        server = Server(place / "trivet.yaml", place / "serve.log")
        try:
            engine = programs.start(
                "tests.doubles.counting_engine", "--seed", str(plan.seed), "--delay-ms", "20"
            )
            write_config(server.config, engine_url=engine.url, store={"path": str(store)})
            server.start()
            limits = set_limits(server.url, key, plan.kills)
            least = minimum_hold(server.url, key)
            with load(plan, [server.url], key):
                _kill_again_and_again(plan, server, store, toll)
            server.kill()
            toll.recoveries_s.append(server.start())
            _look(store, toll)
            server.stop()
            worked = ask(f"{engine.url}/count")["tokens"]
        finally:
            server.kill()
            programs.stop()
        with Database.open(store) as database:
            intact = database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar())
            if intact != "ok":
                toll.violations.append(f"integrity_check: {intact}")
            return judge(plan, database, limits, worked, least, toll)


def _kill_again_and_again(plan: KillPlan, server: Server, store: Path, toll: Toll) -> None:
    dice = random.Random(plan.seed)
    places = [each for each in FAILPOINTS if each != "during_sweep"]
    give_up = time.monotonic() + plan.within_s
    while toll.count < plan.kills and time.monotonic() < give_up:
        time.sleep(dice.uniform(0.05, LIFE_MAX_S))
        server.kill()
        toll.killed("random")
        if toll.count >= plan.kills:
            return
        if (toll.count // 2) % len(FAILPOINTS) == 0:
            # Dies in its recovery, if there was so much to recover; whatever follows recovers it anew.
            server.launch(f"during_sweep:{dice.randint(1, 4)}")
            wait_for_death_or_readiness(server)
            how = "random" if server.process is not None and server.process.poll() is None else "during_sweep"
            server.kill()
            toll.killed(how)
            toll.recoveries_s.append(server.start())
        else:
            where = places[(toll.count // 2) % len(places)]
            begun = time.monotonic()
            server.launch(f"{where}:{dice.randint(5, 40)}")
            wait_for_death_or_readiness(server)
            if server.process is not None and server.process.poll() is None:
                toll.recoveries_s.append(time.monotonic() - begun)
                _look(store, toll)
            _wait_for_death(server)
            how = where if server.process is not None and server.process.poll() is not None else "random"
            server.kill()
            toll.killed(how)
            toll.recoveries_s.append(server.start())
        _look(store, toll)


def _wait_for_death(server: Server) -> None:
    give_up = time.monotonic() + FAILPOINT_PATIENCE_S
    while server.process is not None and server.process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)


def wait_for_death_or_readiness(server: Server) -> None:
    """Return once a server is ready for requests, or dead."""
    while server.process is not None and server.process.poll() is None and not server.is_ready():
        time.sleep(0.01)


def _look(store: Path, toll: Toll) -> None:
    """Check what must hold whenever a server is ready: no limit exceeded, no hold of the dead left open."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)) as connection:
        epoch = connection.execute("SELECT value FROM meta WHERE key = 'ledger_epoch'").fetchone()[0]
        left = connection.execute(
            "SELECT count(*) FROM reservations WHERE state = 'held' AND owner <> ?", (str(epoch),)
        ).fetchone()[0]
        beyond = connection.execute(
            "SELECT count(*) FROM counters JOIN limits USING (scope, meter, window)"
            " WHERE counters.used + counters.held > limits.amount"
        ).fetchone()[0]
    if left:
        toll.violations.append(f"{left} holds of the dead are open after {toll.count} kills")
    if beyond:
        toll.violations.append(f"{beyond} rows are beyond their limit after {toll.count} kills")


def judge(
    plan: KillPlan,
    database: Database,
    limits: dict[str, int],
    worked: dict[str, int],
    least: int,
    toll: Toll,
    *,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the figures of a storm that is over, on either store, with `more` among them."""

    def rows(sql: str) -> list[Any]:
        return database.read(lambda connection: list(connection.exec_driver_sql(sql).fetchall()))

    report = database.read(verify)
    used = dict(
        tuple(row)
        for row in rows("SELECT scope, used FROM counters WHERE \"window\" = 'total' AND meter = 'tokens'")
    )
    ((charged, charged_tokens),) = rows(
        "SELECT count(*), coalesce(sum(used_tokens), 0) FROM entries WHERE kind = 'expire'"
    )
    ((held,),) = rows("SELECT count(*) FROM reservations WHERE state = 'held'")
    violations = list(toll.violations)
    recoveries_s = sorted(toll.recoveries_s) or [0.0]
    if not report.ok:
        violations.append(f"verify: {report.differences[:3]}")
    if held:
        violations.append(f"{held} holds are open at the end")
    short = {org: (used.get(org, 0), tokens) for org, tokens in worked.items() if used.get(org, 0) < tokens}
    if short:
        violations.append(f"charged less than the engine worked: {short}")
    return {
        "store": plan.store,
        "kills": toll.count,
        "kills_asked_for": plan.kills,
        "overspend": sum(max(0, tokens - limits.get(org, 0)) for org, tokens in worked.items()),
        "violations": len(violations),
        "overcharge_per_kill": round(
            (sum(used.get(org, 0) for org in worked) - sum(worked.values())) / max(1, toll.count), 1
        ),
        "max_recovery_s": round(recoveries_s[-1], 3),
        "median_recovery_s": round(recoveries_s[len(recoveries_s) // 2], 3),
        "overcharge_bound": plan.clients * (least - 64 + max(OUTPUTS)),
        "holds_charged_in_full": int(charged),
        "tokens_charged_in_full": int(charged_tokens),
        "tokens_worked": sum(worked.values()),
        "organisations_exhausted": sum(used.get(org, 0) + least > limit for org, limit in limits.items()),
        "entries": report.entries,
        "by_place": toll.kills,
        **(more or {}),
        "violation_examples": violations[:5],
        **provenance(plan.seed),
        "clients": plan.clients,
    }


def set_limits(url: str, key: str, kills: int) -> dict[str, int]:
    """Limit as many organisations as the clients may come to."""
    limits = {f"{ORGANISATION}{number}": LIMIT for number in range(kills + 5)}
    for scope, amount in limits.items():
        ask(f"{url}/api/v1/budgets/{scope}", key, {"total": amount}, method="PUT")
    return limits


@contextlib.contextmanager
def load(plan: KillPlan, urls: list[str], key: str) -> Iterator[None]:
    """Keep the clients busy while the block runs."""
    orders = Orders(
        urls=urls,
        key=key,
        organisation=ORGANISATION,
        scopes=list(SCOPES),
        first_client=0,
        clients=plan.clients,
        seed=plan.seed,
        until_killed=True,
    )
    process = started("tests.proofs.clients", orders)
    try:
        yield
    finally:
        process.communicate(timeout=60)
    if process.returncode:
        raise RuntimeError("the clients failed")
