"""Files and directories that only their owner may read."""

import errno
import os
import stat
from pathlib import Path

from trivet.domain.errors import StoreUnavailable

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


def make_private_directory(path: Path) -> None:
    """Create `path` and what is missing above it, mode 0700; leave what exists as it is.

    Raises:
        StoreUnavailable: the directory cannot be made.
    """
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    try:
        for directory in reversed(missing):
            directory.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"The directory {missing[0]} cannot be made: {error.strerror}.",
            hint="Choose another place with store.path, or make it yourself.",
        ) from error


def open_private_file(path: Path, *, follow_links: bool = True) -> int:
    """Open `path` for reading and writing, made if missing; return its descriptor.

    A file that others could read or write becomes private: mode 0600. The descriptor is closed in every
    program that this process starts.

    Raises:
        StoreUnavailable: the file cannot be opened or made private; without `follow_links` also when it is
            a link, no regular file, or another user's.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW, PRIVATE_FILE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_ours(path) from error
        raise _refused(path, "opened", error) from error
    try:
        if not follow_links and not is_own_file(descriptor):
            raise _not_ours(path)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & ~PRIVATE_FILE:
            os.fchmod(descriptor, PRIVATE_FILE)
    except OSError as error:
        os.close(descriptor)
        raise _refused(path, "made private", error) from error
    except StoreUnavailable:
        os.close(descriptor)
        raise
    return descriptor


def replace_private_file(path: Path, data: bytes) -> None:
    """Write a whole file, mode 0600, so that a reader finds the old content or the new, never a part.

    Raises:
        StoreUnavailable: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        # What somebody else may have put there meanwhile is not written to.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError as error:
        raise _refused(path, "written", error) from error


def is_own_file(descriptor: int) -> bool:
    """Tell whether an open file is a regular one that belongs to this process's effective user."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _refused(path: Path, what: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"The file {path} cannot be {what}: {error.strerror}.",
        hint="It must belong to the user who runs Trivet, who must be able to read and write it.",
    )


def _not_ours(path: Path) -> StoreUnavailable:
    return StoreUnavailable(
        f"{path} is a link, no regular file, or another user's.",
        hint="See who put it there; then remove it, or choose another store.path.",
    )
