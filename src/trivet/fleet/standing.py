"""An endpoint's state, which requests may wait for."""

import asyncio

from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineLoading
from trivet.engines.protocol import Health


class Standing:
    """What is known of an endpoint now, how long it took to come the last time, and who waits for it."""

    def __init__(self, health: Health) -> None:
        self.health = health
        """The present health; `show` changes it."""
        self.is_ready = health.ready
        self.is_coming = EngineState(health.state).is_coming
        """Whether waiting alone makes it better: it is on its way, or is about to be started again."""
        self._changed = asyncio.Event()
        self._since_s = 0.0
        self._took_s: float | None = None
        self._comes_back = False

    def show(self, health: Health) -> None:
        """Take the new health, and wake who waits for it."""
        now_s = asyncio.get_running_loop().time()
        before, self.health = self.health.state, health
        self.is_ready = health.ready
        gave_up, self._comes_back = self._comes_back, False
        self.is_coming = EngineState(health.state).is_coming
        if before == health.state and not gave_up:
            return
        if before == EngineState.LOADING and health.ready:
            self._took_s = now_s - self._since_s
        if health.state == EngineState.LOADING:
            self._since_s = now_s
        self._changed.set()
        self._changed = asyncio.Event()

    def expect_back(self) -> None:
        """Note, until the next health is shown, that an engine which served has died and is started again."""
        self._comes_back = self.is_coming = True

    @property
    def wait_s(self) -> float | None:
        """Return the expected seconds until it is ready; None where nobody can tell."""
        if self.health.ready:
            return 0.0
        if self.health.state != EngineState.LOADING or self._took_s is None:
            return None
        return max(0.0, self._took_s - (asyncio.get_running_loop().time() - self._since_s))

    async def settled(self, name: str, wait_s: float) -> None:
        """Return when waiting alone makes nothing better: it is ready, or has failed.

        Raises:
            EngineLoading: it was still on its way after `wait_s`.
        """
        try:
            async with asyncio.timeout(wait_s):
                while self.is_coming:
                    await self._changed.wait()
        except TimeoutError:
            raise EngineLoading(
                f"{name} was still {self.health.state} after {wait_s:.0f} s: {self.health.detail}",
                retry_after_s=max(1.0, self.wait_s or 5.0),
            ) from None
