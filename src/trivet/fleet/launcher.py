"""Starts, adopts and ends the engine of one deployment, and keeps its record true."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from trivet.config.settings import LaunchSettings
from trivet.domain.errors import EngineUnavailable
from trivet.domain.observations import MemoryObservation
from trivet.engines.launch import LaunchPlan, plan_launch
from trivet.fleet.child import STOP_TIMEOUT_S, Child, Starting, free_port, guardians_of
from trivet.fleet.engine_room import EngineRoom
from trivet.fleet.plan import EndpointPlan
from trivet.fleet.processes import Process
from trivet.fleet.records import EngineRecord, EngineRecords

log = structlog.get_logger(__name__)

LOG_LAG_S = 0.2


class Launcher:
    """The engine process of one deployment. At most one runs at a time."""

    def __init__(
        self,
        plan: EndpointPlan,
        launch: LaunchSettings,
        room: EngineRoom,
    ) -> None:
        self._plan = plan
        self._observations = room.observations
        self._turns = room.turns
        self._waiting: asyncio.Future[Callable[[], None]] | None = None
        self._end_turn: Callable[[], None] | None = None
        self.observed: MemoryObservation | None = None
        self._launch = launch
        self._records = room.records
        self.log_path = room.records.log_path(plan.deployment.name)
        self.child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Return the engine's process id while it runs."""
        return self.child.pid if self.child is not None and self.child.alive else None

    @property
    def is_begun(self) -> bool:
        """Tell whether there is an engine, or one waits for its turn to load."""
        return self.child is not None or self._waiting is not None

    @property
    def may_adopt(self) -> bool:
        """Tell whether an earlier Trivet left an engine that is what would be started now."""
        return self._adoptable() is not None

    def adopt(self) -> LaunchPlan | None:
        """Take charge of the engine that an earlier Trivet left, if it is what would be started now.

        The caller still has to see that it serves the model. None where there is no such engine.
        """
        found = self._adoptable()
        if found is None:
            return None
        record, planned = found
        self.child = Child.adopt(record, self.log_path)
        log.info("engine.adopted", deployment=record.deployment, pid=self.child.pid, url=planned.url)
        return planned

    async def start(self) -> LaunchPlan:
        """Start the engine when no other one loads on its GPUs; an earlier one has ended before.

        It has the turn to load until `end_loading`, or until it ends.

        Raises:
            ConfigError: its settings do not say how.
            OSError: no process can be had.
            EngineUnavailable: its guardian died, or it was stopped while it waited for its turn.
            StoreUnavailable: it cannot be written down, so it is not started.
        """
        await self.stop()
        await self._take_turn()
        try:
            return await self._start()
        except BaseException:
            self.end_loading()
            raise

    async def _start(self) -> LaunchPlan:
        planned = self._planned(free_port(self._records.ports))
        starting = Starting.prepare(
            planned.command, planned.environment, keep=self._records.keep, log_path=self.log_path
        )
        try:
            self._write_down(planned, starting, None)
            self.child = await starting.go()
            self.child.when_ended(self.end_loading)
            self._write_down(planned, starting, self.child)
        except BaseException:
            await asyncio.shield(starting.give_up())
            raise
        return planned

    def end_loading(self) -> None:
        """Let the next engine load on its GPUs; idempotent."""
        if self._end_turn is not None:
            self._end_turn()
            self._end_turn = None

    async def stop(self) -> None:
        """End the engine, if there is one or is to be one, and forget it."""
        if self._waiting is not None:
            self._waiting.cancel()
        name = self._plan.deployment.name
        if self.child is None:
            if (record := self._records.of(name)) is not None:
                await end_leftover(record, self._records)
            return
        await self.child.stop()
        self._records.drop(name)

    async def observe(self, context_tokens: int) -> None:
        """Read from its log what the engine, which is ready with this window, has taken; keep it."""
        if self.child is not None:
            # The guardian may be a moment behind with what the engine wrote.
            await asyncio.sleep(LOG_LAG_S)
            text = await asyncio.to_thread(self.child.log_text)
            deployment = replace(self._plan.deployment, context_tokens=context_tokens)
            self.observed = self._observations.note(replace(self._plan, deployment=deployment), text)

    async def close(self) -> None:
        """End the engine, or leave it to its guardian, as `fleet.on_exit` says."""
        if self._records.keep and self.child is not None and self.child.alive:
            self.child.release()
        else:
            await self.stop()

    def _adoptable(self) -> tuple[EngineRecord, LaunchPlan] | None:
        record = self._records.of(self._plan.deployment.name)
        if self.child is not None or record is None or not is_adoptable(record, self._records):
            return None
        planned = self._planned(record.port)
        return (record, planned) if planned.fingerprint == record.fingerprint else None

    async def _take_turn(self) -> None:
        waiting = self._waiting = asyncio.ensure_future(self._turns.acquire(self._plan.deployment.devices))
        try:
            await asyncio.wait({waiting})
        except BaseException:
            waiting.cancel()
            waiting.add_done_callback(_give_back)  # it may have come at the same moment
            raise
        finally:
            self._waiting = None
        if waiting.cancelled():
            raise EngineUnavailable(f"{self._plan.deployment.name} was stopped before it had started.")
        self._end_turn = waiting.result()

    def _planned(self, port: int) -> LaunchPlan:
        return plan_launch(
            self._plan.deployment,
            self._launch,
            port,
            context_pinned=self._plan.context_pinned,
            api_key=self._plan.api_key,
        )

    def _write_down(self, planned: LaunchPlan, starting: Starting, child: Child | None) -> None:
        self._records.put(
            EngineRecord(
                deployment=self._plan.deployment.name,
                fingerprint=planned.fingerprint,
                keep=self._records.keep,
                port=planned.port,
                guardian=starting.guardian,
                engine=child.engine if child is not None else None,
            )
        )


def _give_back(turn: "asyncio.Future[Callable[[], None]]") -> None:
    if not turn.cancelled() and turn.exception() is None:
        turn.result()()


def is_adoptable(record: EngineRecord, records: EngineRecords) -> bool:
    """Tell whether an engine was meant to be kept, still is, and runs whole."""
    whole = record.engine is not None and record.engine.alive and record.guardian.alive
    return records.keep and record.keep and whole


async def end_leftovers(left: Sequence[EngineRecord], records: EngineRecords, wanted: set[str]) -> None:
    """End what earlier Trivets left and this one does not adopt.

    One that was killed leaves engines that are about to end; their memory is needed, so they are waited for.
    """
    unwanted = [
        record for record in left if record.deployment not in wanted or not is_adoptable(record, records)
    ]
    forgotten = set(guardians_of(records.directory)) - {record.guardian for record in left}
    await asyncio.gather(
        *(end_leftover(record, records) for record in unwanted),
        *(end_forgotten(guardian) for guardian in forgotten),
    )


async def end_forgotten(guardian: Process) -> None:
    """End the engine of a guardian that no record names: the file was lost, or is broken."""
    log.warning("engine.forgotten_ended", guardian=guardian.pid)
    guardian.send(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(guardian.wait(), STOP_TIMEOUT_S)
    guardian.send(signal.SIGKILL)


async def end_leftover(record: EngineRecord, records: EngineRecords) -> None:
    """End one engine that an earlier Trivet left."""
    log.info(
        "engine.leftover_ended",
        deployment=record.deployment,
        pid=record.engine.pid if record.engine is not None else None,
    )
    if record.engine is not None:
        await Child.adopt(record, records.log_path(record.deployment)).stop()
    else:
        # Its guardian was never told to go and ends by itself.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(record.guardian.wait(), STOP_TIMEOUT_S)
    records.drop(record.deployment)
