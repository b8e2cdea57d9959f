"""Busy time per device and minute on its way from the device clock into the store, once and only once."""

import threading
from functools import cache

from trivet.metering.device_clock import DeviceClock
from trivet.storage.entering import enter_later
from trivet.storage.writes import Writes


@cache
def _add(count: int) -> str:
    return f"""
    INSERT INTO device_minutes (device, minute, busy_ns) VALUES {", ".join(["(?, ?, ?)"] * count)}
    ON CONFLICT (device, minute) DO UPDATE SET busy_ns = device_minutes.busy_ns + excluded.busy_ns
"""  # noqa: S608 - placeholders only


class BusyMinutes:
    """Adds to the store what the clock has counted and the store lacks, with whatever is written next.

    So a write that is late or repeated neither loses nor doubles anything, and of many writes in one
    transaction the first does it for all. A crash of the store between a write and its commit is the one
    gap: that write's part is missing afterwards, never doubled.
    """

    def __init__(self, device_clock: DeviceClock) -> None:
        self._device_clock = device_clock
        self._written: dict[tuple[str, int], int] = {}
        """What the store has got of each minute that the clock still keeps."""
        self._version = 0
        """The clock's when all was written."""
        self._gate = threading.Lock()

    def write(self, connection: Writes) -> None:
        """Add to the store what it lacks; from any of its threads."""
        version = self._device_clock.version
        if version == self._version:
            return
        lacking, written = [], self._written
        with self._gate:
            for device, minutes in self._device_clock.minutes():
                counted = tuple(minutes.items())  # in one step, for the event loop's thread goes on counting
                for minute, busy_ns in counted:
                    lacking_ns = busy_ns - written.get((device, minute), 0)
                    if lacking_ns:
                        lacking.append((device, minute, lacking_ns))
            self._version = version
            if not lacking:
                return
            enter_later(connection, _add, lacking)
            for device, minute, lacking_ns in lacking:
                written[device, minute] = written.get((device, minute), 0) + lacking_ns
            self._forget_past()

    def _forget_past(self) -> None:
        """Forget minutes that are over and in the store."""
        for device, minutes in self._device_clock.minutes():
            if len(minutes) > 1:
                for minute, busy_ns in tuple(minutes.items())[:-1]:
                    if self._written.get((device, minute)) == busy_ns:
                        del minutes[minute], self._written[device, minute]
