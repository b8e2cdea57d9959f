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
        drained, totals, missing = self._device_clock.drain_busy(), self._totals, self._missing
        for device, minute, busy_ns in drained:
            key = (device, minute)
            totals[key] = totals.get(key, 0) + busy_ns
            missing.add(key)
            if minute > self._latest_minute:
                self._latest_minute = minute
                self._forget_old()
        if len(missing) > len(drained):  # or there is nothing but what has just come
            self._missing = missing = {key for key in missing if self._written.get(key, 0) < totals[key]}
        return tuple([(*key, totals[key]) for key in sorted(missing)])

    def write(self, connection: Writes, snapshot: Snapshot) -> None:
        """Add to the store what it lacks of the snapshot."""
        lacking, written = [], self._written
        with self._gate:
            for device, minute, total_ns in snapshot:
                lacking_ns = total_ns - written.get((device, minute), 0)
                if lacking_ns > 0:
                    lacking.append((device, minute, lacking_ns))
            if lacking:
                enter_later(connection, _add, lacking)
            for device, minute, lacking_ns in lacking:
                written[device, minute] = written.get((device, minute), 0) + lacking_ns

    def _forget_old(self) -> None:
        """Forget minutes that are in the store and of which no snapshot can still be under way."""
        oldest = self._latest_minute - _KEPT_MINUTES
        for key in [key for key in self._totals if key[1] < oldest and key not in self._missing]:
            del self._totals[key]
            self._written.pop(key, None)
