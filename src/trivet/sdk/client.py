"""`Trivet`: one class for Trivet in this process and for a server elsewhere."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

import httpx

from trivet.config.load import load_settings
from trivet.config.settings import Settings
from trivet.domain.errors import RequestMalformed, ServerUnreachable
from trivet.sdk.address import checked_key, document_in, path_part, server_address
from trivet.sdk.batches import Batches
from trivet.sdk.results import Completion, CompletionStream, Facts, Route, error_from
from trivet.sdk.told import Told

Messages = str | Sequence[Mapping[str, Any]]
HINTS = (
    "task_type", "task_id", "worker", "session", "priority", "min_tier", "max_tier", "local_only",
    "capabilities", "context_tokens", "history_length",
)  # fmt: skip
# An answer may take as long as the server's own deadline; only connecting is bounded here.
TIMEOUT = httpx.Timeout(None, connect=5.0)


class Trivet:
    """Routes, completes and reports. Make one with `open` or `connect`; use it as a context manager.

    Example:
        async with Trivet.open("trivet.yaml") as trivet:
            answer = await trivet.complete("What is a trivet?")
            print(answer.text, answer.facts.tier, answer.facts.reason)
    """

    def __init__(
        self, *, settings: Settings | None, url: str | None, api_key: str | None, with_engines: bool = True
    ) -> None:
        self._settings = settings
        self._with_engines = with_engines
        self._url = url
        self._api_key = api_key
        self._exits = contextlib.AsyncExitStack()
        self._http: httpx.AsyncClient | None = None
        self.recovered_holds = 0
        """Holds that an earlier process left open, and that opening this one charged in full."""

    @classmethod
    def open(
        cls, config: str | Path | None = None, *, settings: Settings | None = None, with_engines: bool = True
    ) -> "Trivet":
        """Run Trivet in this process: it locks the store and starts the engines when entered.

        Args:
            config: the configuration file; by default the same search as `trivet serve`.
            settings: settings made in code, instead of a file.
            with_engines: False for budgets, keys and reports only; nothing can be routed then.

        Raises (when entered):
            StoreLocked: a server owns the store; its URL is in the message. Nothing was started.
            ConfigError: the configuration cannot be used.
        """
        if settings is None:
            settings = load_settings(config_path=Path(config) if config is not None else None).settings
        return cls(settings=settings, url=None, api_key=None, with_engines=with_engines)

    @classmethod
    def connect(cls, url: str, *, api_key: str | None = None) -> "Trivet":
        """Use the Trivet server at `url`; the same methods over HTTP.

        Args:
            url: its address; OpenAI's form of it, which ends with `/v1`, is taken too.
            api_key: a key of that server.

        Raises:
            ServerUnreachable: `url` is no address.
            KeyInvalid: `api_key` holds what no key holds.
        """
        return cls(settings=None, url=server_address(url), api_key=checked_key(api_key))

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as exits:
            headers = {}
            transport: httpx.AsyncBaseTransport | None = None
            if self._settings is not None:
                from trivet.app import open_trivet
                from trivet.app.logs import quiet_unless_configured
                from trivet.sdk.in_process import InProcessTransport

                quiet_unless_configured()
                opened = await exits.enter_async_context(
                    open_trivet(self._settings, with_engines=self._with_engines)
                )
                self.recovered_holds = opened.recovered_holds
                transport = InProcessTransport(opened.application)
                headers["authorization"] = f"Bearer {opened.owner_token}"
            elif self._api_key:
                headers["authorization"] = f"Bearer {self._api_key}"
            self._http = await exits.enter_async_context(
                httpx.AsyncClient(
                    base_url=self._url or "http://trivet.in-process",
                    headers=headers,
                    transport=transport,
                    timeout=TIMEOUT,
                    trust_env=False,
                )
            )
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http = None
        await self._exits.aclose()

    async def route(
        self,
        messages: Messages,
        *,
        model: str = "auto",
        scope: str | None = None,
        reserve: bool = False,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Route:
        """Decide without executing; nothing is charged, and nothing held unless that is asked for.

        Args:
            messages: a prompt, or OpenAI chat messages.
            model: `auto`, a tier's name, or a deployment's name.
            scope: as for `complete`.
            reserve: hold budget until `report`, or `complete` with the `decision_id`, or `expires_at`.
            idempotency_key: as for `complete`; of a reserve.
            options: hints (`task_type`, `min_tier`, `local_only`, ...) and OpenAI parameters (`tools`, ...).
        """
        body = _body(messages, model, options) | ({"reserve": True} if reserve else {})
        headers = _headers(idempotency_key=idempotency_key)
        return Route.read(await self.call("POST", "/api/v1/route", json=body, scope=scope, headers=headers))

    async def report(
        self,
        decision_id: str,
        *,
        prompt_tokens: int,
        completion_tokens: int,
        latency_ms: float | None = None,
        ok: bool = True,
        scope: str | None = None,
    ) -> dict[str, Any]:
        """Tell what a request used that was held for by `route(..., reserve=True)` and executed elsewhere.

        Late, after `expires_at`, it corrects what was charged by then. Repeated, the first report counts.

        Raises:
            NotFound: nothing is held under this id.
            DecisionSpent: Trivet executed it.
        """
        told = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "latency_ms": latency_ms,
            "ok": ok,
        }
        path = f"/api/v1/decisions/{path_part(decision_id)}/outcome"
        return Told(await self.call("POST", path, json=told, scope=scope))

    @overload
    async def complete(
        self,
        messages: Messages,
        *,
        model: str = ...,
        stream: Literal[False] = ...,
        scope: str | None = ...,
        decision_id: str | None = ...,
        idempotency_key: str | None = ...,
        **options: Any,
    ) -> Completion: ...
    @overload
    async def complete(
        self,
        messages: Messages,
        *,
        model: str = ...,
        stream: Literal[True],
        scope: str | None = ...,
        decision_id: str | None = ...,
        idempotency_key: str | None = ...,
        **options: Any,
    ) -> CompletionStream: ...
    async def complete(
        self,
        messages: Messages,
        *,
        model: str = "auto",
        stream: bool = False,
        scope: str | None = None,
        decision_id: str | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Completion | CompletionStream:
        """Answer the messages on the cheapest tier that will do, within the budget.

        Args:
            messages: a prompt, or OpenAI chat messages.
            model: `auto`, a tier's name, or a deployment's name.
            stream: return a CompletionStream instead of waiting for the whole answer.
            scope: whom to charge; only the owner and admin keys may name another than their own.
            decision_id: an earlier `route` to execute, with its hold if it has one, without deciding anew.
            idempotency_key: stands for this request for a day: with it the same is never charged twice.
            options: hints and OpenAI parameters, as for `route`.

        Raises:
            TrivetError: with the stable `code` of the refusal or failure.
        """
        body = _body(messages, model, options)
        if stream:
            body["stream"] = True
        headers = _headers(x_trivet_decision_id=decision_id, idempotency_key=idempotency_key)
        response = await self._send(
            "POST", "/v1/chat/completions", json=body, scope=scope, stream=stream, headers=headers
        )
        if stream:
            return CompletionStream(response)
        return Completion(facts=Facts.read(response.headers), raw=document_in(response))

    async def budget_status(self, scope: str) -> dict[str, Any]:
        """Return a scope's budgets, burn rate and projection."""
        return Told(await self.call("GET", f"/api/v1/budgets/{path_part(scope)}/status"))

    async def savings(self, **period: str) -> dict[str, Any]:
        """Return the savings report; `since` and `until` as `24h` or ISO instants, `scope` to narrow."""
        return Told(await self.call("GET", "/api/v1/savings", params=period))

    async def usage(self, **query: str) -> dict[str, Any]:
        """Return usage rows; `by` names the grouping (`tier,day`), else as `savings`."""
        return Told(await self.call("GET", "/api/v1/usage", params=query))

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
        """Call any route of the HTTP API and return its JSON; None where it has no body.

        What is sent is `json`, or the bytes of `content` as they are.

        Raises:
            TrivetError: the server's error; ServerUnreachable when nobody answers.
        """
        response = await self._send(
            method, path, json=json, content=content, params=params, scope=scope, headers=headers
        )
        return document_in(response, Told) if response.content else None

    async def lines(self, path: str) -> AsyncIterator[str]:
        """Yield the lines of a route that answers with JSON lines, as they come.

        Raises:
            TrivetError: as `call`.
        """
        response = await self._send("GET", path, stream=True)
        try:
            async for line in response.aiter_lines():
                yield line
        finally:
            await response.aclose()

    @property
    def batches(self) -> Batches:
        """Return the face of batches: submit, status, results, wait, cancel."""
        return Batches(self)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        scope: str | None = None,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        if self._http is None:
            raise RuntimeError("Use Trivet as a context manager: `async with Trivet.open(...) as trivet:`.")
        told = {**(headers or {}), **({"x-trivet-scope": scope} if scope else {})}
        try:
            request = self._http.build_request(
                method, path, json=json, content=content, params=params, headers=told
            )
        except ValueError as error:
            # Half a surrogate pair, a scope that is no ASCII, a float that JSON cannot write.
            raise RequestMalformed(f"The request cannot be written: {error}.") from error
        try:
            response = await self._http.send(request, stream=stream)
        except httpx.TransportError as error:
            raise ServerUnreachable(
                f"No Trivet answers at {self._url} ({type(error).__name__}).",
                hint="Start one with `trivet serve`, or check the URL.",
            ) from error
        if response.status_code >= 400:
            await response.aread()
            raise error_from(document_in(response), response.headers)
        return response


def _headers(**named: str | None) -> dict[str, str]:
    """Return the headers that have a value; their names are written with underscores here."""
    return {name.replace("_", "-"): value for name, value in named.items() if value}


def _body(messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Build the chat body: hints go into `metadata`, the rest are OpenAI's parameters."""
    turns = (
        [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(m) for m in messages]
    )
    body: dict[str, Any] = {"model": model, "messages": turns}
    metadata = dict(options.get("metadata") or {})
    for name, value in options.items():
        if name in HINTS:
            if value is not None:
                metadata[name] = value
        elif name != "metadata":
            body[name] = value
    if metadata:
        body["metadata"] = metadata
    return body
