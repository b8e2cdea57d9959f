"""The GPUs as they were a few seconds ago: for whoever asks often and must not wait for a driver."""

import threading
from collections.abc import Callable

from trivet.domain.clock import Clock
from trivet.domain.gpus import Inventory
from trivet.gpu.discovery import discover

MAX_AGE_S = 5.0


class GpuWatch:
    """Keeps the last reading. Asking returns it at once, and has an old one renewed in the background.

    A driver that hangs holds one thread, never the asker.
    """

    def __init__(
        self,
        first: Inventory,
        clock: Clock,
        *,
        read: Callable[[], Inventory] = discover,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        """Take the reading of the start; nothing is read until somebody asks later than `max_age_s`."""
        self._last = first
        self._clock = clock
        self._read = read
        self._max_age_ns = round(max_age_s * 1e9)
        self._read_ns = clock.monotonic_ns()
        self._thread: threading.Thread | None = None

    def inventory(self) -> Inventory:
        """Return the last reading; it may be as old as the time since the last call, and a little more."""
        last = self._last
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and self._clock.monotonic_ns() - self._read_ns >= self._max_age_ns:
            self._thread = threading.Thread(target=self._renew, name="gpu watch", daemon=True)
            self._thread.start()
        return last

    def settle(self, timeout_s: float) -> None:
        """Wait for a reading that is under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _renew(self) -> None:
        self._last = self._read()
        self._read_ns = self._clock.monotonic_ns()
