"""Backup and restore of the store, each proven: the copy's ledger is verified before it counts."""

import contextlib
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trivet.budgets import VerifyReport
from trivet.budgets.verify import verify
from trivet.config.settings import StoreSettings
from trivet.domain.errors import ConfigError, StoreError
from trivet.storage import Database, StoreLock
from trivet.storage.backup import check_copy, copy_store, replace_store
from trivet.storage.connections import reader_engine
from trivet.storage.migration import HEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A copy that was made or put back."""

    path: Path
    size_bytes: int
    revision: str
    rows: int
    """Counters whose agreement with the entries was proven."""
    entries: int
    former: Path | None = None
    """Where the store is that was replaced."""

    def as_json(self) -> dict[str, Any]:
        """Return it as the CLI shows it."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "revision": self.revision,
            "rows": self.rows,
            "entries": self.entries,
            "former": None if self.former is None else str(self.former),
        }


def back_up(settings: StoreSettings, target: Path) -> Copied:
    """Copy the store to a new file, also while a server uses it, and verify the copy; blocks.

    Raises:
        ConfigError: the store is in PostgreSQL, whose own tools do this.
        StoreError: `target` exists, or the copy is not sound: then it is removed.
    """
    source = _file_of(settings)
    with contextlib.ExitStack() as exits:
        owner = StoreLock.owner(source)
        if not source.exists():
            raise StoreError(f"There is no store at {source}.", hint="Check store.path.")
        if owner is None:
            # Without an owner nobody must begin to change the schema meanwhile; and what a crash left in
            # the log beside the file is folded in.
            exits.enter_context(StoreLock.acquire(source))
            exits.enter_context(Database.open(source))
        size = copy_store(source, target)
    try:
        revision, proof = _proven(target)
    except StoreError:
        target.unlink(missing_ok=True)
        raise
    return Copied(path=target, size_bytes=size, revision=revision, rows=proof.rows, entries=proof.entries)


def restore(settings: StoreSettings, source: Path, now: datetime | None = None) -> Copied:
    """Put a backup in the place of the store, which is kept beside it under another name; blocks.

    Raises:
        StoreLocked: a server or command uses the store.
        ConfigError: the store is in PostgreSQL.
        StoreError: the backup is damaged or its ledger does not agree; nothing has changed.
    """
    path = _file_of(settings)
    with StoreLock.acquire(path):
        revision, proof = _proven(source)
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        former = replace_store(path, source, aside=f"{path.name}.before-{stamp}")
    return Copied(
        path=path,
        size_bytes=path.stat().st_size,
        revision=revision,
        rows=proof.rows,
        entries=proof.entries,
        former=former,
    )


def _proven(path: Path) -> tuple[str, VerifyReport]:
    revision = check_copy(path)
    if revision != HEAD:
        # Its ledger can be read in the present form only.
        with tempfile.TemporaryDirectory(prefix="trivet-") as place:
            raised = Path(place) / "trivet.db"
            copy_store(path, raised)
            Database.open(raised).close()
            return revision, _proven(raised)[1]
    engine = reader_engine(path.absolute())
    try:
        with engine.connect() as connection:
            proof = verify(connection)
    finally:
        engine.dispose()
    if not proof.ok:
        raise StoreError(
            f"The ledger in {path} does not agree with its entries: {len(proof.differences)} differences.",
            hint="`trivet ledger verify` names those of the store; use another backup.",
        )
    return revision, proof


def _file_of(settings: StoreSettings) -> Path:
    if settings.url is not None:
        raise ConfigError(
            "The store is a PostgreSQL database, which its own tools back up while it runs.",
            hint="Back up: `pg_dump --format=custom --file=trivet.dump URL`. Restore into an empty database,"
            " with no replica running: `pg_restore --dbname=URL trivet.dump`.",
            param="store.url",
        )
    return settings.path.expanduser()
