"""Batches: whose they are, and who may see what of them."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from trivet.access import require_inference, require_scope
from trivet.batches import Batch, Batches, LineOrder
from trivet.config.batch_settings import BatchSettings
from trivet.domain.budgets import Idempotency
from trivet.domain.clock import Clock
from trivet.domain.errors import NotFound, PermissionDenied, RateLimitExceeded, RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import contains, parse_scope

LABEL_CHARS_MAX = 200
RETRY_AFTER_S = 60.0
PAGE_RESULTS = 100


class BatchOffice:
    """Batches, behind permission checks: a key's own scope, and what lies below it."""

    def __init__(self, batches: Batches, settings: BatchSettings, clock: Clock) -> None:
        self._batches = batches
        self._settings = settings
        self._clock = clock

    async def admit(self, caller: Principal) -> None:
        """Let those pass who may submit a batch now.

        Raises:
            PermissionDenied: auditors use nothing up.
            RateLimitExceeded: so many batches of the scope wait already.
        """
        require_inference(caller)
        waiting = await self._batches.open_count(caller.scope)
        if waiting >= self._settings.open_per_scope:
            raise RateLimitExceeded(
                f"{waiting} batches of {caller.scope} have not ended, and no more are taken.",
                hint="Wait until one has, or cancel one.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def submit(
        self,
        caller: Principal,
        lines: Sequence[LineOrder],
        *,
        label: str,
        window_hours: float | None,
        idempotency: Idempotency | None = None,
    ) -> Batch:
        """Take in a batch of checked lines, to be run as the caller's requests.

        Raises:
            RequestMalformed: the label or the window cannot be.
            IdempotencyError: the key stood for another batch, or for one that is arriving.
        """
        if len(label) > LABEL_CHARS_MAX or not label.isprintable():
            raise RequestMalformed(
                f"label must be at most {LABEL_CHARS_MAX} printable characters.", param="label"
            )
        most = self._settings.window_hours
        hours = most if window_hours is None else window_hours
        if not 0 < hours <= most:
            raise RequestMalformed(
                f"window_hours must be above 0 and at most {most:g}.", param="window_hours"
            )
        return await self._batches.submit(
            lines,
            scope=caller.scope,
            key_id=caller.key_id,
            label=label,
            idempotency=idempotency,
            deadline_at=self._clock.now() + timedelta(hours=hours),
        )

    async def list(self, caller: Principal, scope_text: str | None, *, limit: int) -> list[dict[str, Any]]:
        """Return the latest batches of the scopes that the caller may see."""
        scope = None if caller.sees_all else caller.scope
        if scope_text is not None:
            scope = parse_scope(scope_text)
            require_scope(caller, scope)
        return [batch.as_json() for batch in await self._batches.of(scope, most=limit)]

    async def show(self, caller: Principal, batch_id: str) -> Batch:
        """Return a batch.

        Raises:
            NotFound: there is none, or it is somebody else's.
        """
        found = await self._batches.find(batch_id)
        if found is None or not (caller.sees_all or contains(caller.scope, found.scope)):
            raise NotFound(f"There is no batch {batch_id[:60]!a}.", param="batch_id")
        return found

    async def results(self, caller: Principal, batch_id: str) -> AsyncIterator[str]:
        """Return what became of the lines that have ended, in the file's order, as JSON lines.

        Raises:
            NotFound: as for `show`.
            PermissionDenied: auditors read numbers, not what was asked and answered.
        """
        await self._own(caller, batch_id)
        return self._lines(batch_id)

    async def cancel(self, caller: Principal, batch_id: str) -> Batch:
        """Give up what has not begun; what runs may end, for it is charged.

        Raises:
            NotFound, PermissionDenied: as for `results`.
        """
        await self._own(caller, batch_id)
        await self._batches.cancel(batch_id)
        return await self.show(caller, batch_id)

    async def _own(self, caller: Principal, batch_id: str) -> None:
        await self.show(caller, batch_id)
        if caller.role == "auditor":
            raise PermissionDenied(
                "An auditor's key reads numbers, not requests and answers, and changes nothing.",
                hint="Ask whoever's batch it is.",
            )

    async def _lines(self, batch_id: str) -> AsyncIterator[str]:
        after = 0
        while page := await self._batches.results(batch_id, after=after, most=PAGE_RESULTS):
            for result in page:
                yield result.as_jsonl()
            after = page[-1].number
