"""Copies of a store in a file: made while it is in use, checked, and put back.

A copy is one consistent snapshot, read by a connection that neither writes nor checkpoints, so it may run
beside the owner of the store. It is one file, without a log beside it.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from trivet.domain.errors import StoreError, StoreUnavailable
from trivet.storage.connections import translated
from trivet.storage.migration import HEAD
from trivet.storage.private_files import PRIVATE_FILE, make_private_directory

_BUSY_TIMEOUT_S = 10.0
_SIDECARS = ("", "-wal", "-shm")


def copy_store(source: Path, target: Path) -> int:
    """Copy a store to a file that does not exist yet, readable by its owner alone; return its size in bytes.

    Raises:
        StoreError: `target` exists; nothing is overwritten.
        StoreUnavailable: the store cannot be read, or the copy not written; no half copy is left.
    """
    target = target.absolute()
    make_private_directory(target.parent)
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
    except FileExistsError:
        raise StoreError(
            f"{target} exists.", hint="Name a file that does not; none is overwritten."
        ) from None
    except OSError as error:
        raise StoreUnavailable(f"{target} cannot be written: {error.strerror}.") from error
    with contextlib.ExitStack() as undo:
        undo.callback(target.unlink, missing_ok=True)
        try:
            with (
                contextlib.closing(_reading(source)) as reading,
                contextlib.closing(sqlite3.connect(target)) as writing,
            ):
                # All pages in one step: one snapshot, however much is written meanwhile.
                reading.backup(writing, pages=-1)
                writing.execute("PRAGMA journal_mode=DELETE")
            _sync(target)
        except sqlite3.Error as error:
            raise translated(error) from error
        undo.pop_all()
    return target.stat().st_size


def check_copy(path: Path) -> str:
    """Return the revision of a store in a file, whose pages and indexes are whole.

    Raises:
        StoreError: it is damaged, or no store that this Trivet can read.
    """
    if not path.is_file():
        raise StoreError(f"There is no file {path}.")
    try:
        with contextlib.closing(_reading(path)) as connection:
            (whole,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{path} is no store of Trivet's: {error}.") from error
    if whole != "ok":
        raise StoreError(f"{path} is damaged: {whole}.", hint="Use another backup.")
    revision = "" if row is None else str(row[0])
    if not revision or revision > HEAD:
        raise StoreError(
            f"{path} has revision {revision or 'none'}, which this Trivet does not know.",
            hint="A newer Trivet made it: upgrade this one.",
        )
    return revision


def replace_store(path: Path, source: Path, *, aside: str) -> Path | None:
    """Put a checked copy in the place of a store whose lock the caller holds.

    Args:
        path: the store.
        source: the copy; it stays as it is.
        aside: what the former store's file is called afterwards, in the same directory.

    Returns:
        where the former store is; None when there was none.

    Raises:
        StoreUnavailable, StoreError: nothing has changed.
    """
    path = path.absolute()
    fresh, former = path.with_name(f"{path.name}.restoring"), path.with_name(aside)
    fresh.unlink(missing_ok=True)
    copy_store(source, fresh)
    try:
        kept = path.exists()
        if kept:
            # With its log: what stands only there belongs to it.
            for suffix in reversed(_SIDECARS):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(former.with_name(former.name + suffix))
        fresh.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be replaced: {error.strerror}.") from error
    return former if kept else None


def _reading(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
    )
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("PRAGMA query_only=ON")
    return connection


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
