"""What all launched engines of one Trivet share: records, observations, whose turn it is to load."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trivet.domain.clock import Clock
from trivet.domain.errors import StoreLocked
from trivet.domain.tiers import HOST_DEVICE
from trivet.fleet.observed import Observations
from trivet.fleet.records import LOGS_DIRECTORY, RECORDS_FILE, EngineRecords
from trivet.storage import StoreLock
from trivet.storage.private_files import make_private_directory


class LoadingTurns:
    """Lets one engine at a time load on a GPU.

    vLLM measures the GPU's free memory while it starts, and fails when another program takes or frees some
    meanwhile.
    """

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._wanted: Counter[str] = Counter()

    async def acquire(self, devices: Sequence[str]) -> Callable[[], None]:
        """Wait for the turn on all the devices; return what ends it. The host's memory needs none."""
        wanted = sorted(set(devices) - {HOST_DEVICE})
        with contextlib.ExitStack() as held:
            self._wanted.update(wanted)
            held.callback(self._wanted.subtract, wanted)
            # In one order, so that two that want the same GPUs never wait for each other.
            for device in wanted:
                await self._locks[device].acquire()
                held.callback(self._locks[device].release)
            return held.pop_all().close

    async def acquire_if_free(self, devices: Sequence[str]) -> Callable[[], None] | None:
        """Take the turn if nobody has or wants it on any of the devices; return what ends it, else None."""
        if any(self._wanted[device] > 0 for device in set(devices) - {HOST_DEVICE}):
            return None
        return await self.acquire(devices)


class EngineRoom:
    """The directory of launched engines, which one Trivet uses at a time."""

    def __init__(self, directory: Path, *, keep: bool, clock: Clock) -> None:
        self.records = EngineRecords(directory, keep=keep)
        self.observations = Observations(directory, clock)
        self.turns = LoadingTurns()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, directory: Path, *, keep: bool, clock: Clock) -> Iterator["EngineRoom"]:
        """Use the directory, made private where it is missing; `keep`: whether engines outlive Trivet.

        Raises:
            StoreUnavailable: it cannot be made or locked.
            StoreLocked: another Trivet uses it.
        """
        make_private_directory(directory / LOGS_DIRECTORY)
        try:
            lock = StoreLock.acquire(directory / RECORDS_FILE)
        except StoreLocked as error:
            raise StoreLocked(
                f"The directory {directory} belongs to the engines of another running Trivet.",
                hint="Choose another fleet.state_dir, or leave it out.",
                details=error.details,
            ) from error
        with lock:
            yield cls(directory, keep=keep, clock=clock)
