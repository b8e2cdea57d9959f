"""The one place where the parts are put together, for the server, the library and the tests alike."""

import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI

from trivet.access import Keyring
from trivet.admin import (
    AlertOffice,
    AuditOffice,
    BatchOffice,
    CacheOffice,
    KeyOffice,
    Office,
    Offices,
    OverrideOffice,
    RateOffice,
)
from trivet.api import Doors, build_application
from trivet.api.auth import OWNER_SCOPE, Doorkeeper
from trivet.app.admission_gauges import register_admission
from trivet.app.batching import batching
from trivet.app.books import Books, opened_books
from trivet.app.caching import Caching, caching
from trivet.app.logs import journal
from trivet.app.machine_gpus import register_gpus, watch_gpus
from trivet.app.predictions import predict
from trivet.app.sharing import register_sharing
from trivet.app.signalling import Signalling, signalling
from trivet.budgets import Ledger
from trivet.cache import ResponseCache
from trivet.config.deployments import (
    api_key_of,
    build_deployments,
    build_tiers,
    deployment_settings,
    launch_of,
    ollama_of,
    state_dir_of,
)
from trivet.config.settings import Settings
from trivet.domain.clock import Clock, SystemClock
from trivet.domain.gpus import Inventory
from trivet.domain.tiers import Deployment, Tier
from trivet.engines.prices import PriceTable
from trivet.execution import Breakers, Pipeline, Settler
from trivet.execution.chain import Chain
from trivet.execution.drain import Drain
from trivet.execution.run import Budgeting
from trivet.fleet import Fleet
from trivet.fleet.plan import EndpointPlan
from trivet.gpu import GpuWatch, gpu_uuids
from trivet.metering import DeviceClock, Metrics, TrivetCollector, UsageRecords
from trivet.routing import Router
from trivet.signals import Outbox
from trivet.storage import Database, StoreLock

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTrivet:
    """A running Trivet: the application and what its owner may need of the parts."""

    settings: Settings
    application: FastAPI
    pipeline: Pipeline
    """What the application's inference routes open to."""
    fleet: Fleet
    ledger: Ledger
    keyring: Keyring
    owner_token: str
    lock: StoreLock | None
    """None: the store is shared, and nothing here is this process's own."""
    cache: ResponseCache | None
    """None: it is off."""
    drain: Drain
    """Begun, nothing is taken any more; `empty` tells when all that was taken has ended."""
    recovered_holds: int
    """Holds of a process that died, charged in full at this start."""

    def make_first_key(self) -> str | None:
        """Make an admin key if there is no key at all, and return its text, to be shown this once.

        A server calls this before it listens, so Trivet is never open to all.
        """
        if not self.keyring.is_empty():
            return None
        key_id = self.keyring.free_id()
        entering = self.ledger.enter_key(
            OWNER_SCOPE, "created", author="first start", key_id=key_id, role="admin"
        )
        entering.result()
        text, _ = self.keyring.create(OWNER_SCOPE, role="admin", label="first start", key_id=key_id)
        return text


@asynccontextmanager
async def open_trivet(
    settings: Settings, *, clock: Clock | None = None, with_engines: bool = True
) -> AsyncIterator[OpenTrivet]:
    """Open everything: the store's lock first, then ledger, keys, engines; close in reverse.

    Without engines nothing can be routed, but budgets, keys and reports are there at once.

    Raises:
        StoreLocked: another process owns the store; nothing was started.
        ConfigError: a deployment cannot be built from its settings.
    """
    clock = clock or SystemClock()
    tiers = build_tiers(settings)
    gpus = await watch_gpus(settings, clock)
    inventory = gpus.inventory()
    configured = build_deployments(settings, gpus=gpu_uuids(inventory))
    deployments = configured if with_engines else ()
    async with contextlib.AsyncExitStack() as exits:
        books = await exits.enter_async_context(opened_books(settings, clock, alone=with_engines))
        ledger, keyring = books.ledger, books.keyring
        device_clock = DeviceClock(clock)
        records = _records(books.database, settings, clock, device_clock, tiers, configured)
        exits.callback(records.flush)
        fleet = await exits.enter_async_context(await _fleet(settings, deployments, inventory, clock))
        metrics, breakers = Metrics(), Breakers(settings.execution, clock)
        chain = Chain(fleet, breakers, device_clock, metrics, settings.execution, clock)
        settler = Settler(ledger)
        exits.push_async_callback(settler.drain)
        caches = await exits.enter_async_context(caching(settings, books, clock))
        telling = signalling(books.database, ledger, settings.signals, clock, delivering=with_engines)
        signals = await exits.enter_async_context(telling)
        pipeline = Pipeline(
            router=Router(settings.routing, tiers),
            fleet=fleet,
            settler=settler,
            chain=chain,
            records=records,
            metrics=metrics,
            text_limit_chars=settings.routing.text_limit_chars,
            budget=_budgeting(settings, tiers, PriceTable(settings.pricing.path, deployments, clock)),
            rates=books.rates,
            outside_calls=books.outside_calls,
            clock=clock,
            memory=caches.memory,
            shared_rates=books.shared_rates,
            listener=signals.listener,
            journal=journal(),
        )
        collector, owner_token = TrivetCollector(metrics, device_clock), secrets.token_urlsafe(32)
        keeper, names = Doorkeeper(keyring, owner_token), tuple(tier.name for tier in tiers)
        behind = batching(books.database, pipeline, fleet, keyring, keeper, settings.batch, clock, collector)
        batches = await exits.enter_async_context(behind)
        offices = _offices(
            *(books, records, fleet, signals.outbox, batches, caches.office, clock, configured, chain)
        )
        _register_rooms(collector, fleet, chain, books, gpus, caches, signals)
        doors = Doors(pipeline, offices, fleet, keeper, collector, names, settings.batch, ledger.answers)
        yield OpenTrivet(
            settings=settings,
            application=build_application(doors, settings.server, settings.budgets),
            pipeline=pipeline,
            fleet=fleet,
            ledger=ledger,
            keyring=keyring,
            owner_token=owner_token,
            lock=books.lock,
            drain=pipeline.drain,
            cache=caches.cache,
            recovered_holds=books.recovered_holds,
        )


def _budgeting(settings: Settings, tiers: Sequence[Tier], prices: PriceTable) -> Budgeting:
    return Budgeting(
        prices=prices,
        dearest_order=max(tier.order for tier in tiers),
        wait_s=settings.budgets.contended_wait_s,
        minimum_output_tokens=settings.budgets.minimum_output_tokens,
        outside_hold_s=settings.budgets.outside_hold_s,
        deadline_s=settings.execution.deadline_s,
    )


def _offices(
    books: Books,
    records: UsageRecords,
    fleet: Fleet,
    outbox: Outbox,
    batches: BatchOffice,
    caches: CacheOffice,
    clock: Clock,
    configured: Sequence[Deployment],
    chain: Chain,
) -> Offices:
    """Build the offices. That of keys knows what the configuration names whether engines run or not."""
    ledger, keyring = books.ledger, books.keyring
    return Offices(
        Office(
            ledger=ledger,
            records=records,
            fleet=fleet,
            clock=clock,
            admission=chain.admission.report,
            breaker=chain.breakers.report,
        ),
        KeyOffice(
            keyring,
            ledger,
            tier_names=tuple(dict.fromkeys(deployment.tier.name for deployment in configured)),
            deployment_names=tuple({each.known_as: None for each in configured}),
            clock=clock,
        ),
        OverrideOffice(ledger, keyring, clock),
        RateOffice(books.rates),
        AlertOffice(ledger, outbox),
        AuditOffice(ledger, keyring),
        batches,
        caches,
    )


def _heaviest_at_home(tiers: Sequence[Tier], deployments: Sequence[Deployment]) -> str | None:
    """Return the dearest tier that works on devices of ours: what savings are compared with."""
    at_home = {deployment.tier.name for deployment in deployments if deployment.devices}
    return next((tier.name for tier in reversed(tiers) if tier.name in at_home), None)


def _records(
    database: Database,
    settings: Settings,
    clock: Clock,
    device_clock: DeviceClock,
    tiers: Sequence[Tier],
    configured: Sequence[Deployment],
) -> UsageRecords:
    """Build the usage records, and forget those that were kept long enough."""
    heaviest = _heaviest_at_home(tiers, configured)
    records = UsageRecords(database, clock, device_clock, tiers, baseline_tier=heaviest)
    records.prune(settings.metering.retention_days)
    return records


async def _fleet(
    settings: Settings, deployments: Sequence[Deployment], inventory: Inventory, clock: Clock
) -> Fleet:
    """Build the fleet; its engines start when it is entered."""
    state_dir = state_dir_of(settings) if deployments else None
    plans = await _plans(settings, deployments, inventory)
    return Fleet(plans, settings.fleet, state_dir, clock=clock)


async def _plans(
    settings: Settings, deployments: Sequence[Deployment], inventory: Inventory
) -> list[EndpointPlan]:
    """Return what each endpoint is made from, with what its engine should take of memory."""
    predicted = await predict(settings, deployments, inventory)
    return [_plan(settings, each, inventory, predicted.get(each.name)) for each in deployments]


def _plan(
    settings: Settings, deployment: Deployment, inventory: Inventory, predicted: Mapping[str, Any] | None
) -> EndpointPlan:
    name = deployment.name
    gpus = {gpu.uuid: gpu.name for gpu in inventory.gpus}
    return EndpointPlan(
        deployment=deployment,
        api_key=api_key_of(settings, name),
        launch=launch_of(settings, name),
        context_pinned=deployment_settings(settings, name).context_tokens is not None,
        capabilities_pinned=deployment_settings(settings, name).capabilities is not None,
        ollama=ollama_of(settings, name),
        gpu=next((gpus[device] for device in deployment.devices if device in gpus), "cpu"),
        predicted=predicted,
    )


def _register_rooms(
    collector: TrivetCollector,
    fleet: Fleet,
    chain: Chain,
    books: Books,
    gpus: GpuWatch,
    caches: Caching,
    signals: Signalling,
) -> None:
    """Register what each room can tell at scrape time."""
    register_gpus(collector, gpus)
    register_admission(collector, chain.admission)
    caches.register(collector)
    signals.register(collector)
    register_sharing(collector, books)
    collector.register_snapshot(
        "trivet_breaker_open",
        "1 while the deployment's circuit breaker is open or half-open.",
        ("deployment",),
        lambda: [((name,), float(state != "closed")) for name, state in chain.breakers.states().items()],
    )
    collector.register_snapshot(
        "trivet_deployment_ready",
        "1 while the deployment's engine answers its probe.",
        ("deployment", "tier"),
        lambda: [
            ((offer.deployment.name, offer.deployment.tier.name), float(offer.state == "ready"))
            for offer in fleet.offers()
        ],
    )
    collector.register_snapshot(
        "trivet_engine_restarts",
        "How often Trivet has started the deployment's engine again, since its own start.",
        ("deployment", "tier"),
        lambda: [
            ((report["name"], report["tier"]), float(report["restarts"]))
            for report in fleet.report()
            if report["launched"]
        ],
    )
    collector.register_snapshot(
        "trivet_deployment_waiting",
        "Requests that wait for the deployment's model to get its turn in memory.",
        ("deployment", "tier"),
        lambda: [
            ((report["name"], report["tier"]), float(report["waiting"]))
            for report in fleet.report()
            if report["swap_group"] is not None
        ],
    )
    collector.register_snapshot(
        "trivet_swaps",
        "Models brought into memory in place of another of their swap group, since the start.",
        ("swap_group",),
        lambda: [((name,), float(swaps)) for name, swaps in fleet.swap_counts.items()],
    )
    collector.register_snapshot(
        "trivet_store_up",
        "1 while the store takes holds and settlements.",
        (),
        lambda: [((), float(books.ledger.answers()))],
    )
    collector.register_snapshot(
        "trivet_budget_overrun_tokens",
        "Tokens charged beyond a hold or a limit since the start; the target is 0.",
        (),
        lambda: [((), float(books.ledger.overrun_tokens))],
    )
