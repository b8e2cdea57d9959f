"""Which process is meant: a process id alone may name a stranger by the time it is read."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this machine since it was started, told from a later one with the same id."""

    pid: int
    start_ticks: int
    """When it started, in clock ticks since the machine did: field 22 of /proc/PID/stat (Linux)."""

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """Return the live process with this id; None where there is none, or no /proc to ask."""
        found = _stat(pid)
        return cls(pid, int(found[19])) if found is not None and found[0] not in "ZX" else None

    @property
    def alive(self) -> bool:
        """Tell whether it still runs (one that died and was not yet collected does not)."""
        return Process.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it, if it is still the one."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self) -> None:
        """Return when it has ended; it need not be a child of ours."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (OSError, AttributeError):  # gone, or a system without
            while self.alive:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(POLL_S)
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        try:
            if not self.alive:
                return
            loop.add_reader(descriptor, _tell, ended)
            await ended
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def running_as(program: str, option: str, prefix: str) -> list[Process]:
    """Return this user's processes that run a program (by its file's name) with an option that begins so."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode("utf-8", "replace").split("\0")
            if entry.parent.stat().st_uid != os.geteuid():
                continue
        except OSError:
            continue
        given = any(flag == option and value.startswith(prefix) for flag, value in pairwise(words))
        if given and any(word.rpartition("/")[2] == program for word in words):
            found.append(Process.of(int(entry.parent.name)))
    return [process for process in found if process is not None]


def kill_group(leader: int, start_ticks: int) -> None:
    """Send SIGKILL to what is left of a leader's process group, unless its id names a later process."""
    found = _stat(leader)
    if found is not None and int(found[19]) != start_ticks:
        return
    # While the group has members, the kernel gives its id to no new process.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def boot_id() -> str:
    """Return this start of the machine; start ticks of another one mean nothing. Empty where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _tell(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state (field 3) on; the name before may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
