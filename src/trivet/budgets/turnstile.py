"""Who waits for tokens that others hold: one line per scope, first come first served."""

import asyncio
import contextlib
import itertools
import threading
from dataclasses import dataclass, field

from trivet.domain.scopes import Scope, lineage


@dataclass(eq=False, slots=True)
class Waiter:
    """One request in a line. `turn` is set when it is worth trying again."""

    ticket: int
    line: Scope
    loop: asyncio.AbstractEventLoop
    turn: asyncio.Event = field(default_factory=asyncio.Event)


class Turnstile:
    """Lines of waiters, by the scope whose budget was contended. Usable from any thread.

    Only the head of a line tries again, when tokens came free; when it has gone, whoever is next tries.
    So a large request is not overtaken for ever by small ones.
    """

    def __init__(self) -> None:
        self._lines: dict[Scope, list[Waiter]] = {}
        self._tickets = itertools.count()
        self._lock = threading.Lock()

    def line_of(self, scope: Scope) -> Scope | None:
        """Return the scope, of this one and those above, where others already wait; None if nowhere."""
        with self._lock:
            return next((above for above in lineage(scope) if above in self._lines), None)

    def join(self, line: Scope) -> Waiter:
        """Go to the end of a line. Its head has its turn at once: tokens may have come free since."""
        waiter = Waiter(next(self._tickets), line, asyncio.get_running_loop())
        with self._lock:
            self._enter(waiter)
        return waiter

    def change(self, waiter: Waiter, line: Scope) -> None:
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
                self._call(above)

    def _enter(self, waiter: Waiter) -> None:
        line = self._lines.setdefault(waiter.line, [])
        line.append(waiter)
        line.sort(key=lambda one: one.ticket)
        if line[0] is waiter:
            self._call(waiter.line)

    def _leave(self, waiter: Waiter) -> None:
        line = self._lines[waiter.line]
        was_head = line[0] is waiter
        line.remove(waiter)
        if not line:
            del self._lines[waiter.line]
        elif was_head:
            self._call(waiter.line)

    def _call(self, scope: Scope) -> None:
        line = self._lines.get(scope)
        if line:
            # A loop that was closed under a waiter has nobody left to call.
            with contextlib.suppress(RuntimeError):
                line[0].loop.call_soon_threadsafe(line[0].turn.set)
