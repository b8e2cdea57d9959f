"""LiteLLM itself, kept quiet, on connections that Trivet owns. Imported by a transport's first call only."""

import logging
import sys
import warnings
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any, NoReturn

import aiohttp
import httpx
import litellm
from litellm.llms.custom_httpx.aiohttp_transport import LiteLLMAiohttpTransport
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from openai import AsyncOpenAI

from trivet.domain.tiers import Deployment
from trivet.engines.addresses import api_url
from trivet.engines.litellm_faults import NeverAsked

CONNECTIONS_KEPT_S = 30.0
DEFAULT_CONNECT_S = 5.0
ERROR_BODY_LIMIT_BYTES = 16 * 1024
"""LiteLLM searches an error's text dozens of times, in the event loop: seconds for each megabyte."""
NO_KEY = "none"
"""Sent where a deployment has no key: else LiteLLM would send the environment's OPENAI_API_KEY."""

_ASKED: ContextVar[list[bool]] = ContextVar("asked")
"""Of the call under way: not empty once a connection was wanted for it."""

_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")


class LiteLLMClient:
    """Calls LiteLLM for one deployment."""

    def __init__(self, deployment: Deployment, *, api_key: str | None) -> None:
        """Open a session of its own; must be called inside a running loop."""
        _quieten()
        # Some of the other providers' clients make connections of their own, which nobody sees.
        self._sees_connections = deployment.engine != "litellm"
        self._connector = _Connector(limit=0, keepalive_timeout=CONNECTIONS_KEPT_S, ttl_dns_cache=60)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._arguments: dict[str, Any] = {
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": False,
            # Else any request with tools makes LiteLLM look for its own tool servers, which a tenant could
            # name, in a package that it does not install.
            "_skip_mcp_handler": True,
        }
        self._of_embeddings: dict[str, Any] = {"num_retries": 0, "max_retries": 0}
        if api_key:
            self._of_embeddings["api_key"] = api_key
        if deployment.engine == "litellm":
            # Only LiteLLM knows which client its provider needs; over HTTP it takes our session.
            self._arguments["shared_session"] = self._session
            if api_key:
                self._arguments["api_key"] = api_key
            return
        handler = _OneTryHandler(transport=_transport(self._session, deployment), follow_redirects=False)
        if deployment.engine == "ollama":
            self._arguments |= {"client": handler, "api_key": api_key}
            _register_ollama_model(deployment.model)
            return
        key = api_key or NO_KEY
        base_url = api_url(deployment.url or "", "").rstrip("/")
        client = AsyncOpenAI(api_key=key, base_url=base_url, http_client=handler.client, max_retries=0)
        self._arguments |= {"client": client, "api_key": key}
        self._of_embeddings |= {"client": client, "api_key": key}

    @property
    def connect_s(self) -> float:
        """Return how long a connection may take to open, in seconds."""
        return self._connector.connect_s

    @connect_s.setter
    def connect_s(self, value: float) -> None:
        self._connector.connect_s = value

    async def complete(self, **arguments: Any) -> Any:
        """Return LiteLLM's response object, or its stream.

        Raises:
            NeverAsked: LiteLLM gave up before it wanted a connection; its own exception is the cause.
            Exception: whatever LiteLLM raises.
        """
        asked: list[bool] = []
        _ASKED.set(asked)
        try:
            return await litellm.acompletion(**arguments, **self._arguments)
        except Exception as error:
            if asked or not self._sees_connections:
                raise
            raise NeverAsked from error

    async def embed(self, **arguments: Any) -> Any:
        """Return LiteLLM's response object for embeddings.

        To Ollama LiteLLM goes with a client of its own; everywhere else with ours.

        Raises:
            Exception: whatever LiteLLM raises.
        """
        return await litellm.aembedding(**arguments, **self._of_embeddings)

    async def aclose(self) -> None:
        """Close the session and with it every connection that this deployment's calls opened."""
        await self._session.close()


class _Connector(aiohttp.TCPConnector):
    # LiteLLM takes one time limit and uses it for connecting too; a dead host must be noticed sooner.
    connect_s = DEFAULT_CONNECT_S

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Any:
        _ASKED.get([]).append(True)
        limited = aiohttp.ClientTimeout(
            total=timeout.total,
            connect=timeout.connect,
            sock_read=timeout.sock_read,
            sock_connect=self.connect_s,
        )
        return await super().connect(req, traces, limited)


class _OneTryHandler(AsyncHTTPHandler):  # type: ignore[misc]  # LiteLLM is untyped here
    # A connection that was reset may have been heard: asking again without being told to would run the
    # request twice. Retrying is the fallback chain's decision.
    async def single_connection_post_request(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise sys.exception() or RuntimeError("a retry without a failure")


def _transport(session: aiohttp.ClientSession, deployment: Deployment) -> Any:
    transport = _ShortErrors(client=session, owns_session=False)
    if deployment.local:
        # As with the relay: no proxy of the environment stands before the operator's own machines.
        transport.proxy_cache = _NoProxy()
    return transport


class _ShortErrors(LiteLLMAiohttpTransport):  # type: ignore[misc]  # LiteLLM is untyped here
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = await super().handle_async_request(request)
        if response.status_code >= 400:
            response.stream = _Beginning(response.stream)
        return response


class _Beginning(httpx.AsyncByteStream):
    def __init__(self, whole: Any) -> None:
        self._whole = whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = ERROR_BODY_LIMIT_BYTES
        async for part in self._whole:
            yield part[:left]
            left -= len(part)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._whole.aclose()


class _NoProxy(dict[str, str | None]):
    def __contains__(self, _host: object) -> bool:
        return True

    def __missing__(self, _host: str) -> None:
        return None


def _register_ollama_model(model: str) -> None:
    # Unknown models make LiteLLM ask Ollama's /api/show after each answer, and wait for it in the event loop.
    price = {
        "litellm_provider": "ollama_chat",
        "mode": "chat",
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0.0,
    }
    litellm.register_model({f"ollama_chat/{model}": price})


def _quieten() -> None:
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    # Embeddings are retried by its own client otherwise, whatever the call says.
    litellm.DEFAULT_MAX_RETRIES = 0
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # Said of LiteLLM's own types, the second with what an engine sent: nothing an operator could act on.
    for message in ("Item '.*' on TypedDict class", "Pydantic serializer warnings"):
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    # One line per request with the engine's address is no information for the operator.
    logging.getLogger("httpx").setLevel(logging.WARNING)
