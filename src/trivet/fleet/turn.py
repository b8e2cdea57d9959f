"""Whether an engine has its turn in memory. One that is in no swap group always has."""

import asyncio
import contextlib
from dataclasses import replace

from trivet.domain.engine_states import EngineState
from trivet.engines.protocol import Health

_WORDS = {
    EngineState.SLEEPING: "It sleeps until its swap group gives it its turn.",
    EngineState.ABSENT: "It is loaded when its swap group gives it its turn.",
}


class Turn:
    """Held by a swap group, obeyed by an endpoint's watch."""

    def __init__(self, *, launched: bool) -> None:
        """Begin with the turn; `launched`: the process is ours, so that it may be there or not."""
        self._launched = launched
        self._rests: EngineState | None = None
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._taken = asyncio.Event()
        self.stopped = asyncio.Event()
        """Set while the watch waits for the turn: then no process is being started, and none is watched."""

    @property
    def rests(self) -> EngineState | None:
        """Return what it is while it does not have its turn, `sleeping` or `absent`; None while it has."""
        return self._rests

    def grant(self) -> None:
        """Let it be in memory."""
        self._rests = None
        self._taken.clear()
        self._may_run.set()

    def take(self, state: EngineState) -> None:
        """Let it be out of memory from now on; an engine that is `absent` is not to be started."""
        self._rests = state
        if self._launched and state is EngineState.ABSENT:
            self._may_run.clear()
            self._taken.set()

    async def pause(self, seconds: float) -> None:
        """Sleep, or until an engine that shall be absent loses its turn."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._taken.wait(), seconds)

    async def may_run(self) -> None:
        """Return when the engine may be started, or looked for."""
        if not self._may_run.is_set():
            self.stopped.set()
            await self._may_run.wait()
            self.stopped.clear()

    def is_over(self) -> bool:
        """Tell whether an engine of ours that has just ended is to stay away.

        One that died in its sleep is not started again before its turn: its memory is somebody else's now.
        """
        if not self._launched or self._rests is None:
            return False
        self.take(EngineState.ABSENT)
        return True

    def seen(self, health: Health) -> Health:
        """Return a health as it is shown: out of its turn, what answers sleeps, what has ended is absent."""
        if self._rests is None or health.state not in (EngineState.READY, EngineState.FAILED):
            return health
        return replace(health, state=self._rests, detail=_WORDS[self._rests])
