"""Kill one of two replicas on one PostgreSQL, again and again: the other must bury it in time.

A replica dies at a random moment or at a failpoint, and is started again at once, under another name: it is
somebody else then. Whoever lives charges what the dead one held once its lease has run out. A watch tells how
long that took.
"""

import contextlib
import itertools
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.doubles.programs import Programs
from tests.proofs.kill_storm import (
    FAILPOINT_PATIENCE_S,
    LIFE_MAX_S,
    KillPlan,
    Toll,
    judge,
    load,
    set_limits,
    wait_for_death_or_readiness,
)
from tests.proofs.servers import Server, make_admin_key, write_config
from tests.proofs.storm import ask, minimum_hold
from trivet.domain.failpoints import FAILPOINTS
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.storage.postgres import PostgresDatabase

CLOSED_WITHIN_S = 20.0
"""Lease and sweep: so long after its death a replica's holds are charged."""
_LOOK_S = 0.2
_OWNER = "SELECT id FROM replicas WHERE pid = %s ORDER BY started_ns DESC LIMIT 1"
_OPEN = "SELECT owner, count(*) FROM reservations WHERE state = 'held' AND owner = ANY(%s) GROUP BY owner"
_BEYOND = """
    SELECT count(*) FROM counters JOIN limits USING (scope, meter, "window")
     WHERE counters.used + counters.held > limits.amount
"""
_NOT_IN_FULL = """
    SELECT count(*) FROM reservations
     WHERE owner = ANY(%s) AND state = 'expired_charged' AND charged_tokens <> tokens
"""


@dataclass(slots=True)
class Grave:
    """A dead replica: when it died, and what of its holds is open."""

    died_s: float
    held: int | None = None
    """Holds that it left; None: nobody has looked yet."""
    closed_after_s: float | None = None


@dataclass(slots=True)
class Watch:
    """Looks from outside at what the dead left, as long as its block runs."""

    url: str
    toll: Toll
    graves: dict[str, Grave] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look again and again."""
        thread = threading.Thread(target=self._run, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join()

    def bury(self, pid: int) -> None:
        """Begin to wait for what a process held that has just died."""
        died_s = time.monotonic()
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(_OWNER, (pid,)).fetchone()
        if row is not None:
            with self._lock:
                self.graves.setdefault(str(row[0]), Grave(died_s))

    def all_closed(self, within_s: float) -> bool:
        """Wait until nothing is open of anybody who died."""
        give_up_s = time.monotonic() + within_s
        while time.monotonic() < give_up_s:
            with self._lock:
                if all(grave.closed_after_s is not None for grave in self.graves.values()):
                    return True
            time.sleep(_LOOK_S)
        return False

    def _run(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not self._ending.wait(_LOOK_S):
                self._look(connection)

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        with self._lock:
            waiting = [name for name, grave in self.graves.items() if grave.closed_after_s is None]
        left = dict(connection.execute(_OPEN, (waiting,)).fetchall())
        now_s = time.monotonic()
        for name in waiting:
            grave = self.graves[name]
            if grave.held is None:
                grave.held = left.get(name, 0)
            if name not in left:
                grave.closed_after_s = now_s - grave.died_s
        beyond = connection.execute(_BEYOND).fetchone()
        if beyond is not None and beyond[0]:
            self.toll.violations.append(
                f"{beyond[0]} rows are beyond their limit after {self.toll.count} kills"
            )


class _Replica:
    """One of the servers, and where its present life is to end."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.armed: str | None = None
        self.launched_s = time.monotonic()

    def start(self, armed: str | None, passes: int, toll: Toll) -> None:
        """Begin a life; it may be over before the server is ready."""
        self.armed, self.launched_s = armed, time.monotonic()
        self.server.launch(None if armed is None else f"{armed}:{passes}")
        wait_for_death_or_readiness(self.server)
        if self.is_alive:
            toll.recoveries_s.append(time.monotonic() - self.launched_s)

    @property
    def is_alive(self) -> bool:
        """Tell whether it runs."""
        return self.server.process is not None and self.server.process.poll() is None

    @property
    def may_be_killed(self) -> bool:
        """Tell whether it would not die by itself, or has had its time for that."""
        return self.armed is None or time.monotonic() - self.launched_s > FAILPOINT_PATIENCE_S


def replica_kills(plan: KillPlan, postgres: ScratchPostgres) -> dict[str, Any]:
    """Run a storm of kills over two replicas and return its figures."""
    toll = Toll()
    url = postgres.new_database()
    with tempfile.TemporaryDirectory(prefix="trivet-kills-") as directory:
        place = Path(directory)
        with PostgresDatabase.at(url) as database:
            key = make_admin_key(database, place / "trivet.db")
        programs = Programs()
        replicas = [
            _Replica(Server(place / f"{number}.yaml", place / f"{number}.log")) for number in range(2)
        ]
        watch = Watch(url, toll)
        try:
            engine = programs.start(
                "tests.doubles.counting_engine", "--seed", str(plan.seed), "--delay-ms", "20"
            )
            for number, replica in enumerate(replicas):
                store = {"url": url, "path": str(place / str(number) / "trivet.db")}
                write_config(replica.server.config, engine_url=engine.url, store=store)
                replica.server.start()
            urls = [replica.server.url for replica in replicas]
            limits = set_limits(urls[0], key, plan.kills)
            least = minimum_hold(urls[0], key)
            with watch.looking():
                with load(plan, urls, key):
                    _kill_again_and_again(plan, replicas, watch, toll)
                for replica in replicas:
                    if not replica.is_alive:
                        watch.bury(_pid(replica))
                        replica.start(None, 0, toll)
                if not watch.all_closed(within_s=2 * CLOSED_WITHIN_S):
                    toll.violations.append("holds of the dead are open long after their lease")
            for replica in replicas:
                replica.server.stop()
            worked = ask(f"{engine.url}/count")["tokens"]
        finally:
            for replica in replicas:
                replica.server.kill()
            programs.stop()
        with PostgresDatabase.at(url) as database:
            return {
                **judge(plan, database, limits, worked, least, toll, more=_closings(watch, url)),
                "replicas": len(replicas),
            }


def _kill_again_and_again(plan: KillPlan, replicas: list[_Replica], watch: Watch, toll: Toll) -> None:
    dice = random.Random(plan.seed)
    give_up_s = time.monotonic() + plan.within_s
    places = itertools.cycle(FAILPOINTS)
    while toll.count < plan.kills and time.monotonic() < give_up_s:
        time.sleep(dice.uniform(0.05, LIFE_MAX_S))
        victim = dice.choice(replicas)
        for replica in replicas:
            how = replica.armed
            if replica.is_alive:
                if replica is not victim or not replica.may_be_killed:
                    continue
                how = None
                replica.server.kill()
            toll.killed(how or "random")
            watch.bury(_pid(replica))
            armed = next(places) if toll.count % 2 else None
            replica.start(armed, dice.randint(5, 40) if armed != "during_sweep" else 1, toll)
            if toll.count >= plan.kills:
                return


def _pid(replica: _Replica) -> int:
    assert replica.server.process is not None
    return replica.server.process.pid


def _closings(watch: Watch, url: str) -> dict[str, Any]:
    """Return how long it took until what the dead held was charged, and what was wrong with it."""
    late = [g for g in watch.graves.values() if g.held and (g.closed_after_s or 1e9) > CLOSED_WITHIN_S]
    if late:
        watch.toll.violations.append(f"holds of {len(late)} dead replicas were open for longer than 20 s")
    with psycopg.connect(url) as connection:
        partly = connection.execute(_NOT_IN_FULL, (list(watch.graves),)).fetchone()
    if partly is not None and partly[0]:
        watch.toll.violations.append(f"{partly[0]} holds of the dead were not charged in full")
    with_holds = [g for g in watch.graves.values() if g.held]
    closed = sorted(g.closed_after_s for g in with_holds if g.closed_after_s is not None)
    return {
        "dead_with_holds": len(with_holds),
        "max_close_s": round(closed[-1], 3) if closed else None,
        "median_close_s": round(closed[len(closed) // 2], 3) if closed else None,
    }
