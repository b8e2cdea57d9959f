"""Files and directories that only their owner may read."""

import os
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


def open_private_file(path: Path) -> int:
    """Open `path` for reading and writing, creating it with mode 0600; return its descriptor.

    The descriptor is closed in every program that this process starts.

    Raises:
        StoreUnavailable: the file cannot be opened.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise StoreUnavailable(
            f"The file {path} cannot be opened: {error.strerror}.",
            hint="It must be readable and writable by the user who runs Trivet.",
        ) from error
