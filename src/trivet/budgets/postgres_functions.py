"""Installs the ledger's functions in a PostgreSQL store."""

import hashlib
from pathlib import Path

from sqlalchemy import Connection, text

_SOURCE = Path(__file__).with_name("postgres_functions.sql")
_NAMES = "ledger__"
# Two replicas that start at once: one installs, the other waits and finds it done.
_LOCK = 0x7472_6976_6574_0002


def prefix() -> str:
    """Return what the names of this version's functions begin with.

    It tells the text of the functions, so that replicas of two versions, each with its own, share a store.
    """
    return f"ledger_{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:8]}_"


def install(connection: Connection) -> str:
    """Make the functions where they are missing, in the connection's transaction; return their prefix."""
    names = prefix()
    known = text("SELECT 1 FROM pg_proc WHERE proname = :name AND pg_function_is_visible(oid)")
    if connection.execute(known, {"name": f"{names}apply"}).first() is None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if connection.execute(known, {"name": f"{names}apply"}).first() is None:
            connection.exec_driver_sql(_SOURCE.read_text().replace(_NAMES, names).replace("%", "%%"))
    return names
