"""A replica among others on one store: its sign of life, whom it buries, what it hears of freed tokens."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import structlog

from trivet.budgets.postgres_session import cut
from trivet.domain.errors import StoreUnavailable, TrivetError
from trivet.domain.scopes import Scope
from trivet.storage import postgres

BEAT_S = 2.0
LEASE_S = 15.0
CHANNEL = "trivet_freed"
_SWEPT_AT_ONCE = 500
_RETRY_S = 0.25

_TIME = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000"
_BEAT = f"""
    INSERT INTO replicas (id, host, pid, started_ns, seen_ns)
    VALUES (%s, %s, %s, {_TIME}, {_TIME})
        ON CONFLICT (id)
        DO UPDATE SET seen_ns = excluded.seen_ns
    RETURNING seen_ns
"""  # noqa: S608 - our own text
_DEAD = """
    SELECT reservations.id
      FROM reservations
      LEFT JOIN replicas
        ON replicas.id = reservations.owner
     WHERE reservations.state = 'held'
       AND reservations.owner <> %s
       AND (replicas.id IS NULL OR replicas.seen_ns < %s)
       AND (reservations.expires_ns IS NULL OR reservations.expires_ns <= %s)
     ORDER BY reservations.created_ns, reservations.id
     LIMIT %s
"""
_LEAVE = "DELETE FROM replicas WHERE id = %s"
_FORGET = "DELETE FROM replicas WHERE seen_ns < %s"


class Replica:
    """A thread with a connection of its own: it beats, sweeps and listens."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        sweep: Callable[[Sequence[str]], None],
        freed: Callable[[Scope], None],
        at_ns: Callable[[], int] | None,
        lease_s: float = LEASE_S,
    ) -> None:
        """Take what it does.

        Args:
            url: the store's.
            name: this replica's.
            sweep: charges reservations whose owner is dead.
            freed: is told of tokens that came free.
            at_ns: gives the instant at which holds given to outside callers end; None: the store's clock.
            lease_s: how long after its last sign of life a replica counts as dead.
        """
        self._url = url
        self._name = name
        self._sweep = sweep
        self._freed = freed
        self._at_ns = at_ns
        self._lease_s = lease_s
        self._lease_ns = int(lease_s * 1e9)
        self._beat_s = lease_s * BEAT_S / LEASE_S
        self._ending = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._heard_s: float | None = None
        """When the server last took a sign of life; None: the connection is lost since."""
        self._gate = threading.Lock()
        self._log = structlog.get_logger(__name__)
        self._thread = threading.Thread(target=self._run, name="trivet-replica", daemon=True)

    @property
    def heard(self) -> bool:
        """Tell whether the server takes this replica's signs of life.

        Each of them is written there, over a connection that tells at once when it is lost, so whoever wants
        to know whether the store is there need not ask it. That a server stands still shows a beat later.
        """
        heard_s = self._heard_s
        return heard_s is not None and time.monotonic() - heard_s < 2 * self._beat_s

    def register(self) -> list[str]:
        """Give the first sign of life, return the reservations of dead owners, and begin; blocks.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        connection = postgres.connect(self._url, application=f"trivet-replica {self._name}")
        try:
            dead = self._beat(connection)
        except psycopg.Error as error:
            raise postgres.translated(error) from error
        finally:
            connection.close()
        self._thread.start()
        return dead

    def close(self) -> None:
        """End, and leave the list of the living; idempotent."""
        self._ending.set()
        if not self._thread.is_alive():
            return
        while self._thread.is_alive():
            with self._gate:
                if self._connection is not None:
                    cut(self._connection)
            self._thread.join(0.1)
        with contextlib.suppress(TrivetError, psycopg.Error):
            connection = postgres.connect(self._url, application=f"trivet-replica {self._name}")
            with contextlib.closing(connection):
                connection.execute(_LEAVE, (self._name,))

    def _run(self) -> None:
        bury_from_s = 0.0
        while not self._ending.is_set():
            try:
                connection = postgres.connect(self._url, application=f"trivet-replica {self._name}")
            except StoreUnavailable:
                self._heard_s = None
                self._ending.wait(_RETRY_S)
                continue
            self._connection = connection
            try:
                self._live(connection, bury_from_s)
            except (psycopg.Error, OSError, RuntimeError, ValueError, TrivetError) as error:
                self._heard_s = None
                if self._ending.is_set():
                    return
                # Whoever could not reach the store any more than we could gets time to be heard of again.
                bury_from_s = time.monotonic() + self._lease_s
                self._log.warning("store.replica_connection_lost", error=str(error).strip()[:200])
                self._ending.wait(_RETRY_S)
            finally:
                with self._gate:
                    self._connection = None
                connection.close()

    def _live(self, connection: psycopg.Connection[Any], bury_from_s: float) -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        while not self._ending.is_set():
            dead = self._beat(connection)
            if dead and time.monotonic() >= bury_from_s:
                self._log.warning("budget.holds_of_a_dead_replica", holds=len(dead))
                self._sweep(dead)
            until_s = time.monotonic() + self._beat_s
            while not self._ending.is_set() and (left_s := until_s - time.monotonic()) > 0:
                for notice in connection.notifies(timeout=left_s):
                    self._freed(Scope(notice.payload))

    def _beat(self, connection: psycopg.Connection[Any]) -> list[str]:
        """Say that we live; return the reservations of those that do not."""
        row = connection.execute(_BEAT, (self._name, socket.gethostname()[:80], os.getpid())).fetchone()
        self._heard_s = time.monotonic()
        now_ns = int(row[0]) if row else 0
        dead_since_ns = now_ns - self._lease_ns
        connection.execute(_FORGET, (now_ns - 240 * self._lease_ns,))
        at_ns = now_ns if self._at_ns is None else self._at_ns()
        rows = connection.execute(_DEAD, (self._name, dead_since_ns, at_ns, _SWEPT_AT_ONCE)).fetchall()
        return [reservation_id for (reservation_id,) in rows]
