"""Batches as the library sees them: `trivet.batches.submit(...)`."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Protocol

from trivet.domain.errors import RequestMalformed
from trivet.sdk.address import path_part
from trivet.sdk.told import Told

ENDED = ("completed", "cancelled", "expired")
POLL_S = 1.0


class Caller(Protocol):
    """The part of `Trivet` that batches need."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        scope: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Call a route."""
        ...

    def lines(self, path: str) -> AsyncIterator[str]:
        """Yield a route's JSON lines."""
        ...


class Batches:
    """Files of requests that Trivet works off in the background."""

    def __init__(self, trivet: Caller) -> None:
        self._trivet = trivet

    async def submit(
        self,
        requests: Iterable[Mapping[str, Any]] | bytes,
        *,
        label: str = "",
        window_hours: float | None = None,
        scope: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Submit requests and return the batch, whose `id` the other calls take.

        Args:
            requests: `{"custom_id": "a", "body": {"messages": [...]}}`, or a whole file of such lines, with
                `url` and `method` as well.
            label: a note.
            window_hours: what has not begun by then is given up.
            scope: whom to charge; only the owner and admin keys may name another than their own.
            idempotency_key: the same file under the same key is the same batch, however often it is sent.

        Raises:
            TrivetError: the first fault in the requests; `details["line"]` says where.
        """
        content = requests if isinstance(requests, bytes) else _file(requests)
        params = {"label": label} if label else {}
        if window_hours is not None:
            params["window_hours"] = f"{window_hours:g}"
        return Told(
            await self._trivet.call(
                "POST",
                "/api/v1/batch",
                content=content,
                params=params,
                scope=scope,
                headers={"idempotency-key": idempotency_key} if idempotency_key else None,
            )
        )

    async def status(self, batch_id: str) -> dict[str, Any]:
        """Return a batch as it is now."""
        return Told(await self._trivet.call("GET", f"/api/v1/batch/{path_part(batch_id)}"))

    async def list(self) -> list[dict[str, Any]]:
        """Return the latest batches of the scopes that one may see."""
        answer = await self._trivet.call("GET", "/api/v1/batch")
        return [Told(batch) for batch in answer["batches"]]

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Give up what has not begun."""
        return Told(await self._trivet.call("DELETE", f"/api/v1/batch/{path_part(batch_id)}"))

    async def results(self, batch_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield what became of each line that has ended, in the order of the requests."""
        async for line in self.result_lines(batch_id):
            yield json.loads(line)

    def result_lines(self, batch_id: str) -> AsyncIterator[str]:
        """Yield the same as lines of JSON."""
        return self._trivet.lines(f"/api/v1/batch/{path_part(batch_id)}/results")

    async def wait(
        self,
        batch_id: str,
        *,
        poll_s: float = POLL_S,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Return a batch once it has ended; `on_progress` is called with it each time it was looked at."""
        while True:
            batch = await self.status(batch_id)
            if on_progress is not None:
                on_progress(batch)
            if batch["status"] in ENDED:
                return batch
            await asyncio.sleep(poll_s)


def _file(requests: Iterable[Mapping[str, Any]]) -> bytes:
    usual = {"method": "POST", "url": "/v1/chat/completions"}
    try:
        return "".join(json.dumps({**usual, **request}) + "\n" for request in requests).encode()
    except (TypeError, ValueError) as error:
        raise RequestMalformed(f"The requests cannot be written: {error}.") from error
