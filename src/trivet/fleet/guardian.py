"""A small process between Trivet and one engine: it sees to it that the engine never outlives its purpose.

Run by its path with `python -I -S`, so that it loads the standard library only and stays small:
`guardian.py --on-exit stop|keep --grace SECONDS --log FILE -- COMMAND...`. It needs a POSIX system; what only
Linux has is used where it is.

- Standard input is the lifeline. The engine starts when a first line arrives, so that Trivet can first write
  down whom it started; end-of-file before that means that nothing was started. Afterwards end-of-file means
  that Trivet is gone, however it went: with `stop` the engine is ended, with `keep` it works on.
- Standard output gets one line, the engine's process id.
- SIGTERM ends the engine: SIGTERM to the process it started, then, when that is gone or the grace is over,
  SIGKILL to its process group and to whatever it left behind. The guardian is the reaper of all orphans
  below it (PR_SET_CHILD_SUBREAPER), so none escapes to init. It then exits with the engine's status,
  128 + N for a signal N.
- The kernel sends SIGTERM to the engine when the guardian itself is killed (PR_SET_PDEATHSIG).
- What the engine writes goes to the log file, which is rolled over when it is full.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from typing import NoReturn

LOG_BYTES_MAX = 4 * 1024 * 1024
LOG_FILES_KEPT = 3
"""The present one and those of earlier starts or fillings: FILE, FILE.1, FILE.2."""
CHUNK_BYTES = 65536
KILL_WAIT_S = 2.0
POLL_S = 0.05
EXIT_CANNOT_RUN = 127
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Log:
    """The engine's output in a file of bounded size, beside its predecessors. Trouble with it is ignored."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._size = 0
        self._roll()

    def write(self, data: bytes) -> None:
        """Append; the engine must not suffer from a full disk."""
        if self._size + len(data) > LOG_BYTES_MAX:
            self._roll()
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            self._size += os.write(self._descriptor, data)

    def note(self, sentence: str) -> None:
        """Append a sentence of the guardian's own."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self.write(f"[guardian {stamp}] {sentence}\n".encode(errors="replace"))

    def _roll(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        for number in range(LOG_FILES_KEPT - 1, 0, -1):
            former = self._path if number == 1 else f"{self._path}.{number - 1}"
            with contextlib.suppress(OSError):
                os.replace(former, f"{self._path}.{number}")  # noqa: PTH105
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            self._descriptor = os.open(self._path, flags, 0o600)
            os.dup2(self._descriptor, 2)  # a fault of the guardian's own stands there too
        self._size = 0


class Guardian:
    """Runs one engine to its end."""

    def __init__(self, command: list[str], log: Log, *, keep: bool, grace_s: float) -> None:
        self._command = command
        self._log = log
        self._keep = keep
        self._grace_s = grace_s
        self._engine = 0
        self._status: int | None = None
        self._told_to_end = False

    def run(self) -> int:
        """Start the engine, wait for its end, leave nothing of it; return its exit status."""
        wakeup, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._heed)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        if os.read(0, 64) == b"":
            return 0
        output, written = os.pipe()
        self._start(written)
        os.close(written)
        self._watch(output, wakeup)
        self._leave_nothing(output)
        return self._status if self._status is not None else EXIT_CANNOT_RUN

    def _heed(self, _number: int, _frame: object) -> None:
        self._told_to_end = True

    def _start(self, written: int) -> None:
        # The engine holds the read end of a pipe whose other end is ours: a lifeline for those that mind one.
        held, self._engines_lifeline = os.pipe()
        guardian = os.getpid()
        # A signal that comes before the engine's own program runs must wait for it, not be lost with ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._engine = os.fork()
        if self._engine == 0:
            run_engine(self._command, held, written, guardian=guardian)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.close(held)
        self._log.note(f"started {self._command[0]} as process {self._engine}")
        with contextlib.suppress(OSError):
            os.write(1, f"{self._engine}\n".encode())
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # its reader sees the end

    def _watch(self, output: int, wakeup: int) -> None:
        """Carry the engine's output until it has ended, or is to be ended and the grace is over."""
        deadline: float | None = None
        sources = [output, wakeup, 0]
        while self._status is None:
            if self._told_to_end and deadline is None:
                deadline = time.monotonic() + self._grace_s
                self._log.note("told to end the engine")
                send(self._engine, signal.SIGTERM)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            ready, _, _ = select.select(sources, [], [], left)
            if wakeup in ready:
                os.read(wakeup, CHUNK_BYTES)
            if output in ready and not self._carry(output):
                sources.remove(output)
            if 0 in ready and self._is_gone():
                sources.remove(0)
            self._reap()

    def _is_gone(self) -> bool:
        """Read from Trivet's end of the lifeline; tell whether it is closed."""
        with contextlib.suppress(OSError):
            if os.read(0, CHUNK_BYTES):
                return False
        if not self._keep:
            self._told_to_end = True
        return True

    def _carry(self, output: int) -> bool:
        data = os.read(output, CHUNK_BYTES)
        self._log.write(data)
        return bool(data)

    def _reap(self) -> bool:
        """Collect the dead; tell whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._engine:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code

    def _leave_nothing(self, output: int) -> None:
        """Kill the group and every orphan that came to us, and collect them."""
        give_up = time.monotonic() + KILL_WAIT_S
        while True:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._engine, signal.SIGKILL)
            for child in children_of(os.getpid()):
                send(child, signal.SIGKILL)
            if not self._reap() or time.monotonic() > give_up:
                break
            time.sleep(POLL_S)
        while select.select([output], [], [], 0)[0] and self._carry(output):
            pass
        self._log.note(f"the engine has ended with status {self._status}")


def run_engine(command: list[str], held: int, written: int, *, guardian: int) -> NoReturn:
    """Become the engine, in a session of its own; runs in the forked child."""
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guardian:
            os._exit(EXIT_CANNOT_RUN)  # it died before the kernel knew that we mind
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for source, target in ((held, 0), (written, 1), (written, 2)):
            os.dup2(source, target)
        os.execvp(command[0], command)  # noqa: S606 - without a shell, on purpose
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(EXIT_CANNOT_RUN)


def prctl(option: int, value: int) -> None:
    """Call prctl(2) where there is one."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process, dead ones included (Linux; elsewhere none)."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:  # noqa: PTH123
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main(arguments: list[str]) -> int:
    """Read the command line as the module describes it, and guard."""
    split = arguments.index("--")
    options = dict(zip(arguments[0:split:2], arguments[1:split:2], strict=True))
    guardian = Guardian(
        arguments[split + 1 :],
        Log(options["--log"]),
        keep=options["--on-exit"] == "keep",
        grace_s=float(options["--grace"]),
    )
    return guardian.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
