"""The least that a proxy in Python can do: raw ASGI on uvicorn, one aiohttp session, bytes passed on unread.

`python -m tests.proofs.overhead.bare_relay --port N --upstream URL`. No key, decision, budget or record.
"""

import argparse

import aiohttp
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from tests.doubles.parent import end_with_parent

_PASSED = ("content-type", "content-length")


class BareRelay:
    """Passes every request to one engine, and its answer back."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Relay one request."""
        assert scope["type"] == "http"
        session = self._session = self._session or aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
        )
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            body += message["body"]
            more = message["more_body"]
        headers = {"content-type": "application/json"}
        url = self._upstream + scope["path"]
        async with session.request(scope["method"], url, data=body or None, headers=headers) as answer:
            passed = [(n.encode(), answer.headers[n].encode()) for n in _PASSED if n in answer.headers]
            await send({"type": "http.response.start", "status": answer.status, "headers": passed})
            async for data in answer.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    told = parser.parse_args()
    end_with_parent()
    wire = {"loop": "uvloop", "http": "httptools", "lifespan": "off", "access_log": False}
    uvicorn.run(BareRelay(told.upstream), host="127.0.0.1", port=told.port, log_level="warning", **wire)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
