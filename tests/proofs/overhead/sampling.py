"""`trivet` with its event loop's thread sampled: what part of the processor time is whose.

`python -m tests.proofs.overhead.sampling FILE serve ...`. SIGUSR1 begins; SIGUSR2 ends and writes the shares
to FILE. A timer on the process's processor time fires every 2 ms; each sample weighs as much as the loop's
thread has used since the last one. The time of all other threads, of which only the ledger's writer works, is
the ledger's, and is not sampled but measured.
"""

import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from trivet.cli.main import run

INTERVAL_S = 0.002
SHARES = ("relay", "decision", "ledger", "rest")

# The innermost frame that one of these names decides. What no room of ours called is the server's wire.
_OWNERS = (
    ("trivet/budgets/", "ledger"),
    ("trivet/storage/", "ledger"),
    ("trivet/execution/settler", "ledger"),
    ("trivet/metering/", "rest"),
    ("trivet/routing/", "decision"),
    ("trivet/engines/", "relay"),
    ("trivet/api/delivery", "relay"),
    ("trivet/api/asgi", "relay"),
    ("trivet/", "rest"),
)


def owner_of(frame: FrameType | None) -> str:
    """Return whose a sample is, by the innermost frame of Trivet's."""
    while frame is not None:
        name = frame.f_code.co_filename
        for part, owner in _OWNERS:
            if part in name:
                return owner
        frame = frame.f_back
    return "relay"


class Sampler:
    """Adds up what the thread that it was made in is doing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._used_ns: Counter[str] = Counter()
        self._thread_ns = 0
        self._began = (0, 0)

    def begin(self, *_: object) -> None:
        """Start the timer."""
        self._thread_ns = time.thread_time_ns()
        self._began = (self._thread_ns, time.process_time_ns())
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def sample(self, _: int, frame: FrameType | None) -> None:
        """Take one sample."""
        now_ns = time.thread_time_ns()
        self._used_ns[owner_of(frame)] += now_ns - self._thread_ns
        self._thread_ns = now_ns

    def end(self, *_: object) -> None:
        """Stop the timer and write the shares, which add up to 1."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        mine_ns = time.thread_time_ns() - self._began[0]
        all_ns = time.process_time_ns() - self._began[1]
        sampled_ns = max(1, sum(self._used_ns.values()))
        parts = {owner: self._used_ns[owner] / sampled_ns * mine_ns for owner in SHARES}
        parts["ledger"] += all_ns - mine_ns
        total_ns = max(1.0, sum(parts.values()))
        whole = {owner: round(used_ns / total_ns, 4) for owner, used_ns in parts.items()}
        unfinished = self._path.with_suffix(".part")
        unfinished.write_text(json.dumps({**whole, "writer_thread": round((all_ns - mine_ns) / total_ns, 4)}))
        unfinished.rename(self._path)


def main() -> None:
    """Run Trivet's command line."""
    sampler = Sampler(Path(sys.argv.pop(1)))
    signal.signal(signal.SIGPROF, sampler.sample)
    signal.signal(signal.SIGUSR1, sampler.begin)
    signal.signal(signal.SIGUSR2, sampler.end)
    run()


if __name__ == "__main__":
    main()
