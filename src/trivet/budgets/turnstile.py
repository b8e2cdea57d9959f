"""Who waits for tokens that others hold: one line per budget that is in the way, first come first served."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trivet.domain.budgets import Hold
from trivet.domain.scopes import Scope, lineage

MOST_AT_ONCE = 64
"""How many of a line try in one turn at most; about as many as share a commit."""


class Line(NamedTuple):
    """Whose budget is waited for: a scope's, or that of one task or session in it.

    Who waits for the budget of a session keeps nobody waiting but that session's own requests. The critical
    stand in a line of their own: an allowance may be there for them alone.
    """

    scope: Scope
    window: str = ""
    subject: str = ""
    critical: bool = False

    @classmethod
    def of(cls, details: Mapping[str, Any], *, critical: bool = False) -> "Line":
        """Return the line of the row that a refusal names."""
        subject = details.get("subject", "")
        return cls(Scope(details["scope"]), details["window"] if subject else "", subject, critical)


@dataclass(eq=False, slots=True)
class Waiter:
    """One request in a line. `turn` is set when it is worth trying again."""

    ticket: int
    line: Line
    loop: asyncio.AbstractEventLoop
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    warned: bool = False
    """Whether it was called because the budget is spent."""

    def call(self) -> None:
        """Let it try."""
        # A loop that was closed under a waiter has nobody left to call.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.turn.set)


@dataclass(slots=True)
class _Queue:
    waiters: list[Waiter] = field(default_factory=list)
    front: int = 1
    """How many from the head may try in one turn."""

    def call(self, waiters: Iterable[Waiter]) -> None:
        for waiter in waiters:
            waiter.call()


class Turnstile:
    """Lines of waiters, by the budget that was contended. Usable from any thread.

    When tokens came free the head of a line tries, and with it as many behind it as heads were served in a
    row: with one try to a commit, a line of hundreds would move at the pace of the disk. As soon as one of
    them finds nothing it is the head alone again. So a large request at the head is overtaken once at most,
    by those who tried with it, and never for ever by small ones.
    """

    def __init__(self) -> None:
        self._lines: dict[Scope, dict[Line, _Queue]] = {}
        self._tickets = itertools.count()
        self._lock = threading.Lock()

    @property
    def crowded(self) -> bool:
        """Tell whether anybody waits, anywhere."""
        return bool(self._lines)

    def line_of(self, hold: Hold) -> Line | None:
        """Return the line of a budget that the hold needs, where others already wait; None if nowhere."""
        if not self._lines:
            return None
        wanted = {("", ""), ("task", hold.task), ("session", hold.session)}
        with self._lock:
            return next(
                (
                    line
                    for above in lineage(hold.scope)
                    for line in self._lines.get(above, ())
                    if (line.window, line.subject) in wanted and not line.critical
                ),
                None,
            )

    def join(self, line: Line) -> Waiter:
        """Go to the end of a line. Its head has its turn at once: tokens may have come free since."""
        waiter = Waiter(next(self._tickets), line, asyncio.get_running_loop())
        with self._lock:
            self._enter(waiter)
        return waiter

    def refused(self, waiter: Waiter, line: Line) -> None:
        """Wait where the contention is now; the place in a new line is by order of arrival."""
        with self._lock:
            if waiter.line != line:
                self._leave(waiter, served=False)
                waiter.line = line
                self._enter(waiter)
            self._lines[line.scope][line].front = 1

    def leave(self, waiter: Waiter, *, served: bool) -> None:
        """Step out; whoever is next has its turn."""
        with self._lock:
            self._leave(waiter, served=served)

    def spent(self, waiter: Waiter) -> None:
        """Tell everybody in a line that its budget is spent, so that nobody waits for nothing."""
        with self._lock:
            queue = self._lines[waiter.line.scope][waiter.line]
            cold = [one for one in queue.waiters if not one.warned and one is not waiter]
            for one in cold:
                one.warned = True
            queue.call(cold)

    def freed(self, scope: Scope) -> None:
        """Tell that tokens of `scope`, and so of all above it, came free."""
        if not self._lines:
            return
        with self._lock:
            for above in lineage(scope):
                lines = self._lines.get(above, {})
                for _, queue in sorted(lines.items(), key=lambda item: not item[0].critical):
                    queue.call(queue.waiters[: queue.front])

    def _enter(self, waiter: Waiter) -> None:
        queue = self._lines.setdefault(waiter.line.scope, {}).setdefault(waiter.line, _Queue())
        queue.waiters.append(waiter)
        queue.waiters.sort(key=lambda one: one.ticket)
        if waiter in queue.waiters[: queue.front]:
            waiter.call()

    def _leave(self, waiter: Waiter, *, served: bool) -> None:
        lines = self._lines[waiter.line.scope]
        queue = lines[waiter.line]
        place, front = queue.waiters.index(waiter), queue.front
        queue.waiters.remove(waiter)
        if queue.waiters:
            if served and place == 0:
                queue.front = min(front + 1, MOST_AT_ONCE)
            # Who was among those in front has been called already; the new head is in any case.
            if place == 0:
                queue.waiters[0].call()
            if place < front:
                queue.call(queue.waiters[max(1, front - 1) : queue.front])
            return
        del lines[waiter.line]
        if not lines:
            del self._lines[waiter.line.scope]
