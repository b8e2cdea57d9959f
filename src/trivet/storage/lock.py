"""One process owns a store: an exclusive lock beside it, which also says where the owner listens.

The lock is flock(2) on `<store>.lock`. It belongs to the open file, so it ends with the owner however
that dies, and reading the file elsewhere in the owner does not drop it, as it would with POSIX locks.
A file that is left behind means nothing; only the lock does. Not for network file systems.
"""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from trivet.domain.errors import StoreLocked, StoreUnavailable
from trivet.storage.private_files import is_own_file, make_private_directory, open_private_file

# Whoever asks for the owner holds a shared lock for microseconds; an owner-to-be waits that out.
_TRIES = 5
_PAUSE_S = 0.02
_RECORD_LIMIT_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that owns a store. `url` and `token` are empty until it has announced them."""

    pid: int
    url: str = ""
    token: str = ""


class StoreLock:
    """An acquired lock, held until `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take the open, locked file; use `StoreLock.acquire`."""
        self.path = path
        self._descriptor: int | None = descriptor
        # A forked child shares the open file, and with it the lock; it must not outlive the owner there.
        os.register_at_fork(after_in_child=self._close)

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Lock the store at `path` for this process.

        Raises:
            StoreLocked: another process owns it; `details` hold its `owner_url` and `pid`.
            StoreUnavailable: the lock file cannot be made or locked, is a link, or is another user's.
        """
        lock_path = lock_path_of(path)
        make_private_directory(lock_path.parent)
        descriptor = open_private_file(lock_path, follow_links=False)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, descriptor)
            try:
                if not _locked(descriptor, fcntl.LOCK_EX, tries=_TRIES):
                    raise _refusal(path, _read_owner(descriptor))
            except OSError as error:
                raise _unusable(lock_path, error) from error
            undo.pop_all()
        lock = cls(lock_path, descriptor)
        try:
            lock._write(Owner(os.getpid()))
        except StoreUnavailable:
            lock._close()
            raise
        return lock

    @staticmethod
    def owner(path: Path) -> Owner | None:
        """Return who owns the store at `path` at this moment; None when nobody does.

        A lock file that is a link, or another user's, says nothing: whoever asks would send its keys to
        the URL in it.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(lock_path_of(path), flags)
        except OSError:
            # No file: nobody ever did. Not ours to read: then neither is its owner.
            return None
        try:
            if not is_own_file(descriptor) or _locked(descriptor, fcntl.LOCK_SH, tries=1):
                return None
            return _read_owner(descriptor)
        except OSError:
            # A file system without locks: no Trivet could have acquired it.
            return None
        finally:
            os.close(descriptor)

    def announce(self, url: str, token: str) -> None:
        """Write where this process listens, so that the same user's commands find it.

        Raises:
            StoreLocked: the lock was released.
            StoreUnavailable: the file cannot be written.
        """
        self._write(Owner(os.getpid(), url, token))

    def release(self) -> None:
        """Give the store up; idempotent."""
        if self._descriptor is not None:
            # What is left in the file means nothing; closing is what matters.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, owner: Owner) -> None:
        if self._descriptor is None:
            raise StoreLocked("The store's lock was given up already.")
        record = json.dumps({"pid": owner.pid, "url": owner.url, "token": owner.token}).encode()
        # One write of the padded record, so that a reader sees the old one or the new one.
        try:
            size = os.fstat(self._descriptor).st_size
            os.pwrite(self._descriptor, record.ljust(size), 0)
        except OSError as error:
            raise _unusable(self.path, error) from error


def lock_path_of(path: Path) -> Path:
    """Return the lock file of the store at `path`."""
    path = path.expanduser().absolute()
    return path.with_name(path.name + ".lock")


def _locked(descriptor: int, how: int, *, tries: int) -> bool:
    for attempt in range(tries):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def _read_owner(descriptor: int) -> Owner:
    try:
        record = json.loads(os.pread(descriptor, _RECORD_LIMIT_BYTES, 0))
        return Owner(int(record["pid"]), str(record["url"]), str(record["token"]))
    except (ValueError, KeyError, TypeError):
        # The owner has the lock and is about to write.
        return Owner(0)


def _unusable(lock_path: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"The lock file {lock_path} cannot be used: {error.strerror}.",
        hint="Check the disk's free space, and that store.path is on a local file system.",
    )


def _refusal(path: Path, owner: Owner) -> StoreLocked:
    if owner.url:
        where, hint = (
            f"at {owner.url}",
            "Talk to it with --url or Trivet.connect, or choose another store.path.",
        )
    else:
        process = f" (process {owner.pid})" if owner.pid else ""
        where, hint = f"that does not listen{process}", "If it is starting, try again in a moment."
    return StoreLocked(
        f"The store {path} belongs to a running Trivet {where}.",
        hint=hint,
        details={"owner_url": owner.url or None, "pid": owner.pid or None},
    )
