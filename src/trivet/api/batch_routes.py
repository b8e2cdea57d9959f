"""`/api/v1/batch`: files of requests that are worked off in the background."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from trivet.admin import BatchOffice
from trivet.api.asgi import ClientGone, Receive, Scope, Send, header_map, new_request_id, read_body
from trivet.api.auth import Doorkeeper
from trivet.api.batch_lines import BatchFile, read_batch
from trivet.api.guard import Caller
from trivet.api.reading import idempotency_of
from trivet.api.replies import send_error, send_json
from trivet.config.batch_settings import BatchSettings
from trivet.domain.errors import ModelUnknown, PermissionDenied, RequestMalformed, TrivetError
from trivet.domain.requests import Principal
from trivet.execution import Pipeline

BATCH_PATH = "/api/v1/batch"
BODY_TIMEOUT_S = 300.0
JSONL = "application/jsonl"


class BatchDoor:
    """`POST /api/v1/batch`: takes a file in, whole or not at all."""

    def __init__(
        self,
        office: BatchOffice,
        pipeline: Pipeline | None,
        doorkeeper: Doorkeeper,
        *,
        settings: BatchSettings,
        line_limit_bytes: int,
        exhausted_status: int,
    ) -> None:
        """Take the parts; without a pipeline nobody can tell whether the models that are asked for exist."""
        self._office = office
        self._pipeline = pipeline
        self._doorkeeper = doorkeeper
        self._settings = settings
        self._line_limit_bytes = line_limit_bytes
        self._exhausted_status = exhausted_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the batch (201), or with the first fault in it."""
        request_id = new_request_id()
        try:
            taken = await self._take(scope, receive)
        except ClientGone:
            return
        except TrivetError as error:
            await send_error(send, error, request_id=request_id, exhausted_status=self._exhausted_status)
            return
        await send_json(send, taken, request_id=request_id, status=201)

    async def _take(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        headers = header_map(scope)
        caller = self._doorkeeper.principal(headers)
        await self._office.admit(caller)
        label, window_hours = _options(scope)
        if headers.get("content-type", "").startswith("multipart/"):
            raise RequestMalformed(
                "A batch is the bare file, not a form.",
                hint="With curl: --data-binary @requests.jsonl, not -F.",
            )
        body = await read_body(
            receive,
            limit_bytes=self._settings.max_bytes,
            hint="Split it, or raise batch.max_bytes.",
            timeout_s=BODY_TIMEOUT_S,
            headers=headers,
        )
        file = await read_batch(
            body, max_lines=self._settings.max_lines, line_limit_bytes=self._line_limit_bytes
        )
        self._check_models(file, caller)
        batch = await self._office.submit(
            caller,
            file.lines,
            label=label,
            window_hours=window_hours,
            idempotency=idempotency_of(headers, body),
        )
        return batch.as_json()

    def _check_models(self, file: BatchFile, caller: Principal) -> None:
        """Refuse what names a model that there is not, or that the key may not use."""
        if self._pipeline is None:
            return
        for number, request in file.first_of_model.values():
            try:
                self._pipeline.decide(request, caller, patient=True)
            except (ModelUnknown, PermissionDenied) as error:
                raise type(error)(
                    f"Line {number}: {error.message}",
                    hint=error.hint,
                    param=error.param,
                    details={**error.details, "line": number},
                ) from None
            except TrivetError:
                pass  # what is wrong with this one line, its own result will say


def router(office: BatchOffice) -> APIRouter:
    """Return the routes besides that."""
    routes = APIRouter(prefix="/api/v1", tags=["batch"])

    @routes.get("/batch", summary="The latest batches of the scopes you may see")
    async def batches(
        principal: Caller,
        scope_text: Annotated[
            str | None, Query(alias="scope", description="Only this scope and below.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        return {"batches": await office.list(principal, scope_text, limit=limit)}

    @routes.get("/batch/{batch_id}", summary="One batch: its status, its lines by state and by deployment")
    async def batch(principal: Caller, batch_id: str) -> dict[str, Any]:
        return (await office.show(principal, batch_id)).as_json()

    @routes.get(
        "/batch/{batch_id}/results",
        summary="What became of the lines that have ended, as JSON lines in the order of the file",
        response_class=StreamingResponse,
    )
    async def results(principal: Caller, batch_id: str) -> StreamingResponse:
        lines = await office.results(principal, batch_id)
        return StreamingResponse(_encoded(lines), media_type=JSONL, headers={"cache-control": "no-store"})

    @routes.delete("/batch/{batch_id}", summary="Cancel: what has not begun is given up")
    async def cancel(principal: Caller, batch_id: str) -> dict[str, Any]:
        return (await office.cancel(principal, batch_id)).as_json()

    return routes


async def _encoded(lines: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield line.encode()


def _options(scope: Scope) -> tuple[str, float | None]:
    """Read `label` and `window_hours` from the query.

    Raises:
        RequestMalformed: there is something else, or no number.
    """
    query: bytes = scope.get("query_string", b"")
    told = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True, errors="replace")
    strange = sorted(set(told) - {"label", "window_hours"})
    if strange:
        raise RequestMalformed(
            f"There is no option {strange[0][:40]!a}.", hint="Use label and window_hours.", param="query"
        )
    hours = told.get("window_hours", [None])[-1]
    try:
        return told.get("label", [""])[-1], None if hours is None else float(hours)
    except ValueError:
        raise RequestMalformed("window_hours must be a number.", param="window_hours") from None
