"""An OpenAI-speaking server that misbehaves as it is told: `python -m tests.doubles.fault_server --port N`.

The `model` of a request, or its header `x-fault`, names the fault; `POST /fault {"name": ...}` sets one for
all requests until it is set to null. `GET /stats` counts what was done. It ends when its standard input does.
A `model` that begins with `told-` does what the last message tells it: `told-light=cut told-heavy=ok`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

TOKEN_DELAY_S = 0.02
DRIP_DELAY_S = 0.15
DEFAULT_TOKENS = 8
REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests"}
WORDS = ("alpha", "beta", "gamma", "delta")


class ClientGoneError(Exception):
    """The client closed its connection."""


@dataclass(slots=True)
class Stats:
    """What the server has done so far."""

    requests: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    aborted: int = 0


@dataclass(slots=True)
class Exchange:
    """One request and the connection to answer it on."""

    body: dict[str, Any]
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stats: Stats
    keep_alive: bool = True

    @property
    def stream(self) -> bool:
        """Tell whether a stream was asked for."""
        return bool(self.body.get("stream"))

    @property
    def token_count(self) -> int:
        """Return how many tokens the answer shall have."""
        return int(self.body.get("max_tokens") or self.body.get("max_completion_tokens") or DEFAULT_TOKENS)

    async def send(self, status: int, body: bytes, *, kind: str = "application/json", **headers: str) -> None:
        """Send a whole answer."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"content-type: {kind}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines.append(f"content-length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def send_json(self, status: int, document: Any, **headers: str) -> None:
        """Send a whole JSON answer."""
        await self.send(status, json.dumps(document).encode(), **headers)

    async def error(self, status: int, message: str, kind: str = "server_error", **headers: str) -> None:
        """Send an error in OpenAI's shape."""
        error = {"message": message, "type": kind, "param": None, "code": status}
        await self.send_json(status, {"error": error}, **headers)

    async def begin_stream(self) -> None:
        """Send the head of a chunked event stream."""
        head = (
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked"
        )
        self.writer.write(f"{head}\r\n\r\n".encode())
        await self.writer.drain()

    async def write(self, data: bytes) -> None:
        """Send bytes of the stream.

        Raises:
            ClientGoneError: the client left.
        """
        if self.reader.at_eof() or self.writer.is_closing():
            raise ClientGoneError
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def event(self, document: Any) -> None:
        """Send one event, with JSON as compact as vLLM's."""
        await self.write(b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n")

    async def delta(self, delta: dict[str, Any], finish: str | None = None) -> None:
        """Send one chunk of a chat completion."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        await self.event({**self.envelope("chat.completion.chunk"), "choices": [choice]})

    async def words(self, count: int, delay_s: float = TOKEN_DELAY_S) -> None:
        """Send content chunks of one token each."""
        for index in range(count):
            await self.delta({"content": f"{WORDS[index % len(WORDS)]} "})
            self.stats.tokens += 1
            await asyncio.sleep(delay_s)

    async def end_stream(self, *, done: bool = True) -> None:
        """End the chunked answer in good order."""
        if done:
            await self.write(b"data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def envelope(self, kind: str) -> dict[str, Any]:
        """Return what every document of a chat completion begins with."""
        return {"id": "chatcmpl-fault", "object": kind, "created": 1, "model": self.body.get("model")}

    def usage(self) -> dict[str, Any]:
        """Return a truthful usage."""
        return {
            "prompt_tokens": 7,
            "completion_tokens": self.token_count,
            "total_tokens": 7 + self.token_count,
            "prompt_tokens_details": {"cached_tokens": 2},
        }

    async def wait_gone(self) -> None:
        """Wait until the client leaves.

        Raises:
            ClientGoneError: always.
        """
        while await self.reader.read(1024):
            pass
        raise ClientGoneError


Fault = Callable[[Exchange], Awaitable[None]]


async def answer(exchange: Exchange, *, usage: Any = None, tokens: int | None = None, **how: Any) -> None:
    """Answer well, apart from what is passed."""
    count = exchange.token_count if tokens is None else tokens
    usage = exchange.usage() if usage is None else usage
    if not exchange.stream:
        exchange.stats.tokens += count
        text = " ".join(WORDS[index % len(WORDS)] for index in range(count))
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        document = {**exchange.envelope("chat.completion"), "choices": [choice]}
        await exchange.send_json(200, document | ({"usage": usage} if usage else {}))
        return
    await exchange.begin_stream()
    await exchange.delta({"role": "assistant", "content": ""})
    await exchange.words(count, **how)
    await exchange.delta({}, "stop")
    if usage and (exchange.body.get("stream_options") or {}).get("include_usage"):
        await exchange.event({**exchange.envelope("chat.completion.chunk"), "choices": [], "usage": usage})
    await exchange.end_stream()


async def busy(exchange: Exchange) -> None:
    """503 as a full queue says it."""
    await exchange.error(
        503, "The engine is currently busy and cannot accept new requests.", "Service Unavailable"
    )


async def limited(exchange: Exchange, *, retry_after_s: int = 7) -> None:
    """429 with Retry-After."""
    await exchange.error(429, "Rate limit reached.", "rate_limit_error", retry_after=str(retry_after_s))


async def loading(exchange: Exchange) -> None:
    """503 as llama.cpp says it while it loads."""
    await exchange.error(503, "Loading model", "unavailable_error")


async def failed(exchange: Exchange) -> None:
    """500."""
    await exchange.error(500, "EngineCore encountered an issue.", "InternalServerError")


async def bad_gateway(exchange: Exchange) -> None:
    """502 with a web page, as a proxy says it."""
    page = b"<html><body><h1>502 Bad Gateway</h1> http://10.0.0.7:8000/</body></html>"
    await exchange.send(502, page, kind="text/html")


async def redirect(exchange: Exchange) -> None:
    """302 to another place."""
    await exchange.send(302, b"", location="http://127.0.0.1:1/v1/chat/completions")


async def hang(exchange: Exchange) -> None:
    """No answer at all, until the client leaves."""
    await exchange.wait_gone()


async def stall(exchange: Exchange) -> None:
    """A stream that falls silent after two tokens; a plain answer that stops within its body."""
    await begin_badly(exchange)
    await exchange.wait_gone()


async def cut(exchange: Exchange) -> None:
    """A connection closed amid the answer."""
    await begin_badly(exchange)
    exchange.keep_alive = False


async def begin_badly(exchange: Exchange) -> None:
    """Send an answer's beginning."""
    if exchange.stream:
        await exchange.begin_stream()
        await exchange.delta({"role": "assistant", "content": ""})
        await exchange.words(2)
        return
    exchange.writer.write(
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{"id":'
    )
    await exchange.writer.drain()


async def early_end(exchange: Exchange) -> None:
    """A clean end without a finish reason; plain: without a finish reason too."""
    if not exchange.stream:
        message = {"role": "assistant", "content": "alpha"}
        choice = {"index": 0, "message": message, "finish_reason": None}
        await exchange.send_json(200, {**exchange.envelope("chat.completion"), "choices": [choice]})
        return
    await begin_badly(exchange)
    await exchange.end_stream(done=False)


async def role_then_error(exchange: Exchange) -> None:
    """An error event after a role-only frame."""
    if not exchange.stream:
        await failed(exchange)
        return
    await exchange.begin_stream()
    await exchange.delta({"role": "assistant", "content": ""})
    await exchange.event({"error": {"message": "CUDA out of memory.", "type": "server_error", "code": 500}})
    await exchange.end_stream()


async def error_in_200(exchange: Exchange) -> None:
    """A 200 whose first event is a 503, as vLLM's full queue answers a stream."""
    error = {
        "message": "The engine is currently busy.",
        "type": "Service Unavailable",
        "param": None,
        "code": 503,
    }
    if not exchange.stream:
        await exchange.send_json(200, {"error": error})
        return
    await exchange.begin_stream()
    await exchange.event({"error": error})
    await exchange.end_stream()


async def error_amid(exchange: Exchange) -> None:
    """An error event after two tokens."""
    if not exchange.stream:
        await failed(exchange)
        return
    await begin_badly(exchange)
    await exchange.event(
        {"error": {"message": "EngineCore died.", "type": "InternalServerError", "code": 500}}
    )
    await exchange.end_stream()


async def garbage(exchange: Exchange) -> None:
    """Bytes that are no JSON."""
    if not exchange.stream:
        await exchange.send(200, b"\x00\x01 not json {{{")
        return
    await exchange.begin_stream()
    await exchange.write(b"data: {{{ not json\n\n")
    await exchange.end_stream()


async def no_choices(exchange: Exchange) -> None:
    """A JSON object that is no chat completion."""
    if not exchange.stream:
        await exchange.send_json(200, exchange.envelope("chat.completion"))
        return
    await exchange.begin_stream()
    await exchange.event(exchange.envelope("chat.completion.chunk"))
    await exchange.end_stream()


async def close_no_reply(exchange: Exchange) -> None:
    """The connection closed without a byte."""
    exchange.keep_alive = False


async def overflow(exchange: Exchange) -> None:
    """400 as vLLM says that a prompt is too long."""
    message = "This model's maximum context length is 256 tokens. However, you requested 300 tokens."
    await exchange.error(400, message, "BadRequestError")


async def rejected(exchange: Exchange) -> None:
    """400 for a bad field."""
    await exchange.error(
        400, "temperature must be non-negative. See http://10.0.0.7:8000/docs", "BadRequestError"
    )


async def absent(exchange: Exchange) -> None:
    """404 as vLLM says that it serves no such model."""
    await exchange.error(404, "The model `nope` does not exist.", "NotFoundError")


async def denied(exchange: Exchange) -> None:
    """401."""
    await exchange.error(401, "Unauthorized", "authentication_error")


async def oversized(exchange: Exchange) -> None:
    """One endless event."""
    await exchange.begin_stream()
    for _ in range(100):
        await exchange.write(b"data: " + b"x" * 65536)
    await exchange.end_stream()


FAULTS: dict[str, Fault] = {
    "ok": answer,
    "slow": lambda exchange: answer(exchange, delay_s=DRIP_DELAY_S),
    "drip": lambda exchange: answer(exchange, delay_s=DRIP_DELAY_S),
    "empty-ok": lambda exchange: answer(exchange, tokens=0),
    "no-usage": lambda exchange: answer(exchange, usage={}),
    "wrong-usage-negative": lambda exchange: answer(exchange, usage=wrong_usage(-5)),
    "wrong-usage-huge": lambda exchange: answer(exchange, usage=wrong_usage(10**30)),
    "wrong-usage-string": lambda exchange: answer(exchange, usage=wrong_usage("many")),
    "503": busy,
    "503-loading": loading,
    "429": limited,
    "429-soon": lambda exchange: limited(exchange, retry_after_s=1),
    "500": failed,
    "html502": bad_gateway,
    "redirect": redirect,
    "hang": hang,
    "stall": stall,
    "cut": cut,
    "early-end": early_end,
    "role-then-error": role_then_error,
    "error-in-200": error_in_200,
    "error-amid": error_amid,
    "garbage": garbage,
    "no-choices": no_choices,
    "close-no-reply": close_no_reply,
    "400-context": overflow,
    "400": rejected,
    "404": absent,
    "401": denied,
    "oversized": oversized,
}


def fault_told(body: dict[str, Any]) -> str:
    """Return the fault that a request asks for: its model, or what its last message tells that model."""
    model = str(body.get("model"))
    if not model.startswith("told-"):
        return model
    told = dict(word.split("=", 1) for word in str(body["messages"][-1]["content"]).split() if "=" in word)
    return told.get(model, "ok")


def wrong_usage(value: Any) -> dict[str, Any]:
    """Return a usage that no engine can mean."""
    return {"prompt_tokens": value, "completion_tokens": value, "total_tokens": value}


class FaultServer:
    """Accepts connections and answers them as asked."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.fault_for_all: str | None = None

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            async for exchange, method, path in self._exchanges(reader, writer):
                await self._route(exchange, method, path)
                if not exchange.keep_alive:
                    break
        except ClientGoneError:
            self.stats.aborted += 1
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchanges(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> AsyncIterator[tuple[Exchange, str, str]]:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            except asyncio.IncompleteReadError:
                return
            request_line, *lines = head.split("\r\n")
            method, path, _ = request_line.split(" ", 2)
            headers = {
                line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines if line
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            document = json.loads(body) if body else {}
            yield Exchange(document, headers, reader, writer, self.stats), method, path

    async def _route(self, exchange: Exchange, method: str, path: str) -> None:
        if path == "/v1/chat/completions" and method == "POST":
            name = self.fault_for_all or exchange.headers.get("x-fault") or fault_told(exchange.body)
            self.stats.requests[name] += 1
            fault = FAULTS.get(name, answer)
            await fault(exchange)
        elif path == "/health":
            await exchange.send(200, b"")
        elif path == "/v1/models":
            models = [{"id": name, "object": "model", "max_model_len": 4096} for name in FAULTS]
            await exchange.send_json(200, {"object": "list", "data": models})
        elif path == "/stats":
            counted = {"requests": dict(self.stats.requests), "tokens": self.stats.tokens}
            await exchange.send_json(200, counted | {"aborted": self.stats.aborted})
        elif path == "/fault" and method == "POST":
            self.fault_for_all = exchange.body.get("name")
            await exchange.send_json(200, {"name": self.fault_for_all})
        else:
            await exchange.error(404, f"No route {method} {path}.", "not_found_error")


async def run(port: int) -> None:
    """Serve on 127.0.0.1 until cancelled."""
    server = await asyncio.start_server(FaultServer().serve_connection, "127.0.0.1", port, limit=1 << 20)
    async with server:
        await server.serve_forever()


def end_with_standard_input() -> None:
    """End the process when whoever started it is gone."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Read the port and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    asyncio.run(run(options.port))


if __name__ == "__main__":
    main()
