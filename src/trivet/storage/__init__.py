"""The store: its schema, its one writer thread, its lock."""

from trivet.storage.database import Database
from trivet.storage.lock import Owner, StoreLock

__all__ = ["Database", "Owner", "StoreLock"]
