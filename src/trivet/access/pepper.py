"""The pepper: the server's own secret, without which the stored digests of keys are worthless."""

import os
import secrets
import stat
from pathlib import Path

from trivet.config.settings import AccessSettings
from trivet.domain.errors import ConfigError

FILE_NAME = "pepper"
_BYTES = 32
_LEAST_BYTES = 16


def load_pepper(settings: AccessSettings, store_path: Path | None) -> bytes:
    """Return the pepper of the settings, else that of the file beside the store, made once with mode 0600.

    A store in memory has one that ends with it.

    Raises:
        ConfigError: the pepper is too short, or its file cannot be read or is readable by others.
    """
    if settings.pepper is not None:
        return _checked(settings.pepper.get_secret_value().encode(), "access.pepper")
    if store_path is None:
        return secrets.token_bytes(_BYTES)
    path = store_path.expanduser().absolute().parent / FILE_NAME
    try:
        if not path.exists():
            _make(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        pepper = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"The pepper file {path} cannot be used: {error.strerror}.",
            hint="It must be readable and writable by the user who runs Trivet; or set access.pepper.",
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"The pepper file {path} is open to other users (mode {mode:o}).", hint=f"chmod 600 {path}"
        )
    return _checked(pepper, str(path))


def _make(path: Path) -> None:
    """Write the file under another name first, so that it is never seen unfinished."""
    unfinished = path.with_name(f"{FILE_NAME}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(_BYTES).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)


def _checked(pepper: bytes, origin: str) -> bytes:
    if len(pepper) < _LEAST_BYTES:
        raise ConfigError(
            f"{origin}: a pepper has at least {_LEAST_BYTES} characters.",
            hint="`openssl rand -hex 32` makes a good one.",
            param="access.pepper",
        )
    return pepper
