"""Busy time per device and minute on its way from the device clock into the store, once and only once."""

import threading
from functools import cache

from trivet.metering.device_clock import DeviceClock
from trivet.storage.entering import enter_later
from trivet.storage.writes import Writes

Snapshot = tuple[tuple[str, int, int], ...]
"""(device, minute since 1970, busy nanoseconds of this process so far) of what the store may lack."""

_KEPT_MINUTES = 24 * 60


@cache
def _add(count: int) -> str:
    return f"""
    INSERT INTO device_minutes (device, minute, busy_ns) VALUES {", ".join(["(?, ?, ?)"] * count)}
    ON CONFLICT (device, minute) DO UPDATE SET busy_ns = device_minutes.busy_ns + excluded.busy_ns
"""  # noqa: S608 - placeholders only


class BusyMinutes:
    """Hands over totals, not deltas, and adds only what is new when they are written.

    So a snapshot that is never written, is written late or is written twice neither loses nor doubles
    anything: the next one carries what is still missing. `snapshot` is for the event loop's thread and
    `write` for the store's threads. A crash of the store between a write and its commit is the one
    gap: that snapshot's part is missing afterwards, never doubled.
    """

    def __init__(self, device_clock: DeviceClock) -> None:
        self._device_clock = device_clock
        self._totals: dict[tuple[str, int], int] = {}
        self._missing: set[tuple[str, int]] = set()
        self._written: dict[tuple[str, int], int] = {}
        self._latest_minute = 0
        self._gate = threading.Lock()

    def snapshot(self) -> Snapshot:
        """Return the totals of every minute that is not known to be in the store."""
        for device, minute, busy_ns in self._device_clock.drain_busy():
            key = (device, minute)
            self._totals[key] = self._totals.get(key, 0) + busy_ns
            self._missing.add(key)
            if minute > self._latest_minute:
                self._latest_minute = minute
                self._forget_old()
        self._missing = {key for key in self._missing if self._written.get(key, 0) < self._totals[key]}
        return tuple(
            (device, minute, self._totals[device, minute]) for device, minute in sorted(self._missing)
        )

    def write(self, connection: Writes, snapshot: Snapshot) -> None:
        """Add to the store what it lacks of the snapshot."""
        with self._gate:
            lacking = [
                (device, minute, total_ns - self._written.get((device, minute), 0))
                for device, minute, total_ns in snapshot
                if total_ns > self._written.get((device, minute), 0)
            ]
            if lacking:
                enter_later(connection, _add, lacking)
            for device, minute, added_ns in lacking:
                self._written[device, minute] = self._written.get((device, minute), 0) + added_ns

    def _forget_old(self) -> None:
        """Forget minutes that are in the store and of which no snapshot can still be under way."""
        oldest = self._latest_minute - _KEPT_MINUTES
        for key in [key for key in self._totals if key[1] < oldest and key not in self._missing]:
            del self._totals[key]
            self._written.pop(key, None)
