"""Who waits for tokens that others hold: one line per budget that is in the way, first come first served."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trivet.domain.budgets import Hold
from trivet.domain.scopes import Scope, lineage


class Line(NamedTuple):
    """Whose budget is waited for: a scope's, or that of one task or session in it.

    Who waits for the budget of a session keeps nobody waiting but that session's own requests.
    """

    scope: Scope
    window: str = ""
    subject: str = ""

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "Line":
        """Return the line of the row that a refusal names."""
        subject = details.get("subject", "")
        return cls(Scope(details["scope"]), details["window"] if subject else "", subject)


@dataclass(eq=False, slots=True)
class Waiter:
    """One request in a line. `turn` is set when it is worth trying again."""

    ticket: int
    line: Line
    loop: asyncio.AbstractEventLoop
    turn: asyncio.Event = field(default_factory=asyncio.Event)


class Turnstile:
    """Lines of waiters, by the budget that was contended. Usable from any thread.

    Only the head of a line tries again, when tokens came free; when it has gone, whoever is next tries.
    So a large request is not overtaken for ever by small ones.
    """

    def __init__(self) -> None:
        self._lines: dict[Scope, dict[Line, list[Waiter]]] = {}
        self._tickets = itertools.count()
        self._lock = threading.Lock()

    def line_of(self, hold: Hold) -> Line | None:
        """Return the line of a budget that the hold needs, where others already wait; None if nowhere."""
        wanted = {("", ""), ("task", hold.task), ("session", hold.session)}
        with self._lock:
            return next(
                (
                    line
                    for above in lineage(hold.scope)
                    for line in self._lines.get(above, ())
                    if (line.window, line.subject) in wanted
                ),
                None,
            )

    def join(self, line: Line) -> Waiter:
        """Go to the end of a line. Its head has its turn at once: tokens may have come free since."""
        waiter = Waiter(next(self._tickets), line, asyncio.get_running_loop())
        with self._lock:
            self._enter(waiter)
        return waiter

    def change(self, waiter: Waiter, line: Line) -> None:
        """Wait where the contention is now; the place in the new line is by order of arrival."""
        with self._lock:
            if waiter.line != line:
                self._leave(waiter)
                waiter.line = line
                self._enter(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Step out; whoever is next has its turn."""
        with self._lock:
            self._leave(waiter)

    def freed(self, scope: Scope) -> None:
        """Tell that tokens of `scope`, and so of all above it, came free."""
        with self._lock:
            for above in lineage(scope):
                for line in self._lines.get(above, {}).values():
                    _call(line)

    def _enter(self, waiter: Waiter) -> None:
        line = self._lines.setdefault(waiter.line.scope, {}).setdefault(waiter.line, [])
        line.append(waiter)
        line.sort(key=lambda one: one.ticket)
        if line[0] is waiter:
            _call(line)

    def _leave(self, waiter: Waiter) -> None:
        lines = self._lines[waiter.line.scope]
        line = lines[waiter.line]
        was_head = line[0] is waiter
        line.remove(waiter)
        if line:
            if was_head:
                _call(line)
            return
        del lines[waiter.line]
        if not lines:
            del self._lines[waiter.line.scope]


def _call(line: list[Waiter]) -> None:
    """Let the head of a line try again."""
    # A loop that was closed under a waiter has nobody left to call.
    with contextlib.suppress(RuntimeError):
        line[0].loop.call_soon_threadsafe(line[0].turn.set)
