"""An engine that costs next to nothing: a fixed answer, whole or in 64 pieces, on bare asyncio.

`python -m tests.proofs.overhead.upstream --port N [--gap-ms G]`. Every event of a stream is an HTTP chunk of
its own, as vLLM sends it; without a gap they follow one another at once, with one each waits so long. It runs
on asyncio's own loop: fast enough, and it leaves the load its part of the processor. It ends with its input.
"""

import argparse
import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

from tests.doubles.parent import end_with_parent

PIECES = 64
WORD = "lorem "
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_USAGE = {"prompt_tokens": 20, "completion_tokens": PIECES, "total_tokens": 20 + PIECES}


def _document(kind: str, **rest: Any) -> bytes:
    document = {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": "mock", **rest}
    return json.dumps(document, separators=(",", ":")).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(**rest: Any) -> bytes:
    return _chunk(b"data: " + _document("chat.completion.chunk", **rest) + b"\n\n")


def _piece(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event(choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


def _json(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


_MESSAGE = {"role": "assistant", "content": WORD * PIECES}
PLAIN = _json(
    _document(
        "chat.completion",
        choices=[{"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}],
        usage=_USAGE,
    )
)
MODELS = _json(
    json.dumps(
        {"object": "list", "data": [{"id": "mock", "object": "model", "max_model_len": 8192}]}
    ).encode()
)
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def pieces(*, counted: bool) -> list[bytes]:
    """Return the parts of a streamed answer as they are written one after the other."""
    content = [_piece({"content": WORD})] * PIECES
    usage = [_event(choices=[], usage=_USAGE)] if counted else []
    end = [_piece({}, "stop"), *usage, _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"]
    return [_HEAD, _piece({"role": "assistant", "content": ""}), *content, *end]


_PIECES = {counted: pieces(counted=counted) for counted in (False, True)}


class Engine:
    """Answers each caller's requests, one after the other on each connection."""

    plain = PLAIN

    def __init__(self, gap_s: float = 0.0) -> None:
        self._gap_s = gap_s

    async def serve(self, port: int) -> asyncio.Server:
        """Listen on a port of the loopback."""
        return await asyncio.start_server(self._talk, "127.0.0.1", port)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A caller that goes away ends the conversation; what it did not read is nobody's.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                for part in self._answer(json.loads(body) if body else None):
                    writer.write(part)
                    if self._gap_s:
                        await asyncio.sleep(self._gap_s)
                await writer.drain()

    def _answer(self, asked: dict[str, Any] | None) -> Sequence[bytes]:
        if asked is None:
            return (MODELS,)
        if not asked.get("stream"):
            return (self.plain,)
        return _PIECES[bool((asked.get("stream_options") or {}).get("include_usage"))]


async def _serve(port: int, gap_s: float) -> None:
    async with await Engine(gap_s).serve(port) as server:
        await server.serve_forever()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gap-ms", type=float, default=0.0)
    told = parser.parse_args()
    end_with_parent()
    asyncio.run(_serve(told.port, told.gap_ms / 1000))


if __name__ == "__main__":
    main()
