"""The pool of connections to engines, which knows whether a connection had been used before.

A server may close a connection at the moment it is used again: llama.cpp does so after every stream,
although it announces to keep it. A request that meets this was not read by anybody and may be sent again;
a request that fails on a fresh connection may not, for the engine may have begun to work on it.
"""

import weakref
from contextvars import ContextVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

CONNECTIONS_KEPT_S = 4.0
"""Less than the five seconds after which uvicorn (vLLM) and llama.cpp close an idle connection."""

_reused: ContextVar[bool] = ContextVar("trivet_connection_reused", default=False)


class EngineConnector(aiohttp.TCPConnector):
    """Connections to all engines, without a limit on their number: admission is the caller's."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=CONNECTIONS_KEPT_S, ttl_dns_cache=60)
        self._used: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's
    ) -> Connection:
        """Take a connection from the pool, or make one, and note which for `was_reused`."""
        _reused.set(False)
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        if protocol is not None:
            _reused.set(protocol in self._used)
            self._used.add(protocol)
        return connection


def was_reused() -> bool:
    """Tell whether this task's latest request went out on a connection that had been used before."""
    return _reused.get()
