"""Carries the outbox to the log and to the operator's webhook, as long as Trivet runs."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import structlog

from trivet.config.signal_settings import SignalSettings
from trivet.domain.clock import Clock
from trivet.domain.errors import StoreError
from trivet.signals.messages import body_of, headers_of, shape_for
from trivet.signals.outbox import SELECTION, Delivery, Outbox, OutboxState
from trivet.signals.webhook import NotDelivered, Webhook

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
STATE_EVERY_S = 15.0
PRUNE_EVERY_S = 3600.0
BATCH = 8
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 900.0
_LEASE_MARGIN_S = 30.0
_NOTHING = OutboxState(
    waiting=0, dead=0, delivered=0, oldest_waiting_at=None, last_error=None, dead_letters=()
)


class Courier:
    """Delivers what is due: each item is logged at its first try, then sent until it arrives or ages out."""

    def __init__(self, outbox: Outbox, settings: SignalSettings, clock: Clock) -> None:
        """Take the outbox and the section of the configuration; to be made inside a running loop."""
        self._outbox = outbox
        self._settings = settings
        self._clock = clock
        url, secret = settings.webhook_url, settings.webhook_secret
        self._secret = None if secret is None else secret.get_secret_value()
        self._webhook: Webhook | None = None
        if url is not None:
            self._webhook = Webhook(url.get_secret_value(), timeout_s=settings.timeout_s, clock=clock)
        self.state = _NOTHING
        """How the deliveries stood when last looked at, for who may not wait."""

    async def deliver_due(self) -> int:
        """Try what is due now, once; return how many items were tried.

        Raises:
            StoreError: the store does not answer.
        """
        if not await asyncio.to_thread(self._outbox.is_due):
            return 0
        lease = timedelta(seconds=self._settings.timeout_s + _LEASE_MARGIN_S)
        claimed = await asyncio.wrap_future(self._outbox.claim(BATCH, lease))
        for item in claimed:
            if item.attempts == 1:
                _tell_the_log(item)
        if self._webhook is None:
            await asyncio.wrap_future(self._outbox.delivered([item.seq for item in claimed]))
        else:
            # Side by side: one that hangs must not make the lease of the last one end before its turn.
            await asyncio.gather(*(self._deliver(item, self._webhook) for item in claimed))
        return len(claimed)

    async def look(self) -> OutboxState:
        """Read anew how the deliveries stand."""
        self.state = await asyncio.to_thread(self._outbox.state)
        return self.state

    async def close(self) -> None:
        """Close the way to the webhook."""
        if self._webhook is not None:
            await self._webhook.close()

    async def run(self) -> None:
        """Deliver until cancelled; a store that fails is asked again."""
        looked_ns = pruned_ns = None
        while True:
            try:
                while await self.deliver_due() == BATCH:
                    pass
                now_ns = self._clock.monotonic_ns()
                if looked_ns is None or now_ns - looked_ns >= STATE_EVERY_S * 1e9:
                    looked_ns = now_ns
                    await self.look()
                if pruned_ns is None or now_ns - pruned_ns >= PRUNE_EVERY_S * 1e9:
                    pruned_ns = now_ns
                    retention = timedelta(days=self._settings.retention_days)
                    await asyncio.wrap_future(self._outbox.prune(retention))
            except StoreError as error:
                log.warning("signals.store_failed", error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _deliver(self, item: Delivery, webhook: Webhook) -> None:
        body = body_of(item, shape_for(webhook.url, self._settings.format))
        now_s = int(self._clock.now().timestamp())
        try:
            await webhook.post(body, headers_of(item, body, secret=self._secret, now_s=now_s))
        except NotDelivered as failure:
            await self._put_off(item, failure)
            return
        await asyncio.wrap_future(self._outbox.delivered([item.seq]))
        log.info("signals.delivered", id=item.delivery_id, type=item.kind, attempts=item.attempts)

    async def _put_off(self, item: Delivery, failure: NotDelivered) -> None:
        """Enter the failure and when to try again: ever later, at random, so that not all come at once."""
        now = self._clock.now()
        again_at = now + timedelta(seconds=pause_s(item.attempts, failure.retry_after_s))
        if again_at > item.at + timedelta(hours=self._settings.give_up_after_hours) and item.attempts > 1:
            log.error(
                "signals.dead_letter",
                id=item.delivery_id,
                type=item.kind,
                attempts=item.attempts,
                error=str(failure),
            )
            await asyncio.wrap_future(self._outbox.failed(item.seq, str(failure), again_at=None))
            self.state = replace(self.state, dead=self.state.dead + 1)
            return
        log.warning(
            "signals.not_delivered",
            id=item.delivery_id,
            attempts=item.attempts,
            error=str(failure),
            again_at=again_at.isoformat(),
        )
        await asyncio.wrap_future(self._outbox.failed(item.seq, str(failure), again_at=again_at))


@contextlib.asynccontextmanager
async def couriers(courier: Courier) -> AsyncIterator[Courier]:
    """Let the courier run while the block does. What is cut short then goes to the next start."""
    task = asyncio.get_running_loop().create_task(courier.run())
    try:
        yield courier
    finally:
        task.cancel()
        await asyncio.wait({task})
        await courier.close()


def pause_s(attempts: int, asked_s: float | None) -> float:
    """Return how long to wait after so many tries: at random up to a bound that doubles, or as asked."""
    bound = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 20))
    drawn = random.uniform(bound / 2, bound)  # noqa: S311 - no secret
    return max(drawn, min(asked_s or 0.0, LONGEST_PAUSE_S))


def _tell_the_log(item: Delivery) -> None:
    """Write the events of the first guide: a breach when nothing is left, a warning before."""
    facts = {name: value for name, value in item.data.items() if name not in ("at", "latest", "slowest")}
    if item.kind == SELECTION:
        log.info(SELECTION, id=item.delivery_id, **facts)
    elif item.kind == "budget.threshold" and item.data.get("threshold", 0) >= 100:
        log.warning("model.budget_breached", id=item.delivery_id, **facts)
    else:
        log.warning(
            item.kind.replace("budget.threshold", "budget.threshold_passed"), id=item.delivery_id, **facts
        )
