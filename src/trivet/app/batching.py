"""Puts the batches together: their store, who works them off, and what Prometheus sees of it."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

from trivet.access import Keyring
from trivet.admin import BatchOffice
from trivet.api.auth import OWNER_KEY_ID, Doorkeeper
from trivet.api.errors import error_body, http_status
from trivet.batches import Batches, BatchWork, Claim
from trivet.config.batch_settings import BatchSettings
from trivet.domain.clock import Clock
from trivet.domain.errors import TrivetError
from trivet.domain.requests import Principal
from trivet.execution import Pipeline
from trivet.execution.batch_errand import Runner
from trivet.execution.batch_runner import BatchRunner
from trivet.fleet import Fleet
from trivet.metering import TrivetCollector
from trivet.storage import Database


@contextlib.asynccontextmanager
async def batching(
    database: Database,
    pipeline: Pipeline,
    fleet: Fleet,
    keyring: Keyring,
    doorkeeper: Doorkeeper,
    settings: BatchSettings,
    clock: Clock,
    collector: TrivetCollector,
) -> AsyncIterator[BatchOffice]:
    """Work batches off while the block runs, where there are engines and that is wished; yield their desk."""
    batches = Batches(database, clock, kept_for=timedelta(hours=settings.retention_hours))
    office = BatchOffice(batches, settings, clock)
    if not fleet.offers() or not settings.concurrency:
        _register(collector, None)
        yield office
        return

    def principal_of(claim: Claim) -> Principal:
        if claim.key_id == OWNER_KEY_ID:
            return replace(doorkeeper.owner, scope=claim.scope)
        return replace(keyring.principal_of(claim.key_id), scope=claim.scope)

    work = BatchWork(batches, clock, runner=uuid.uuid4().hex, max_tries=settings.max_tries)

    async def refresh() -> None:
        if database.shared:
            await asyncio.to_thread(keyring.refresh)

    lines = Runner(work, pipeline, principal_of, _answered, refresh=refresh, max_tries=settings.max_tries)
    runner = BatchRunner(batches, work, lines, fleet, settings, clock)
    pipeline.drain.listen(runner.stop)
    _register(collector, runner)
    task = asyncio.get_running_loop().create_task(runner.run())
    try:
        yield office
    finally:
        task.cancel()
        await asyncio.wait({task})
        await runner.close()


def _answered(error: TrivetError, request_id: str) -> tuple[int, str]:
    """Return the status and the body with which the doors would have answered."""
    status = http_status(error)
    return status, json.dumps(error_body(error, status=status, request_id=request_id))


def _register(collector: TrivetCollector, runner: BatchRunner | None) -> None:
    """Register the gauges of batches."""
    collector.register_snapshot(
        "trivet_batches",
        "Batches that this process works off.",
        (),
        lambda: [((), float(runner.open_batches if runner else 0))],
    )
    collector.register_snapshot(
        "trivet_batch_lines",
        "Requests of these batches that wait, and that run now.",
        ("state",),
        lambda: [
            (("waiting",), float(runner.waiting_lines if runner else 0)),
            (("running",), float(runner.running_lines if runner else 0)),
        ],
    )
