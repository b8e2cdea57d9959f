"""A stand-in for Ollama: its native protocol in front of a real llama.cpp server. It is NOT Ollama.

Run `python -m tests.doubles.ollama_standin --port N --backend URL [--model NAME[=BACKEND] ...]`. Inference is
real, the backend's; models, loading, keep-alive, pulls and the silent truncation of long prompts (unless
`truncate` is false) are simulated after Ollama's source. Not simulated: eviction, and any command
that changes a model. It ends when its standard input does.

For tests only: `GET /standin/stats` counts requests, loads and aborted answers and shows the last /api/chat
body; `POST /standin/faults {"queue_full": N, "cut": N, "error_line": N}` makes the next N chats fail so, and
`{"load_delay_s": S, "unload_delay_s": S}` makes each load and unload take so long.
"""

import argparse
import asyncio
import json
import os
import threading
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

from tests.doubles import ollama_wire as wire
from tests.doubles.ollama_state import ProtocolError, State, keep, load, named, shortened

VERSION = "0.33.0"
QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
LAYER_BYTES = 4_000_000
PULL_STEPS = 4
PULL_STEP_S = 0.02
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "150K",
    "quantization_level": "F32",
}


STATE = web.AppKey("state", State)
SESSION = web.AppKey("session", aiohttp.ClientSession)


@web.middleware
async def answer_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Count the request, and answer errors in the shape of the route."""
    request.app[STATE].requests[request.path] += 1
    try:
        answer: web.StreamResponse = await handler(request)
    except ProtocolError as error:
        if not request.path.startswith("/v1/"):
            return web.json_response({"error": error.text}, status=error.status)
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(error.status, "api_error")
        body = {"message": error.text, "type": kind, "param": None, "code": None}
        return web.json_response({"error": body}, status=error.status)
    except (asyncio.CancelledError, ConnectionResetError):
        # A client that left shows itself as either, whichever comes first: the end of its connection, or a
        # line that can no longer be sent.
        request.app[STATE].aborted += 1
        raise
    return answer


async def read_request(request: web.Request) -> dict[str, Any]:
    """Return the JSON body."""
    data = await request.read()
    if not data:
        raise ProtocolError(400, "missing request body")
    try:
        body = json.loads(data)
    except ValueError as error:
        raise ProtocolError(400, "invalid character in JSON") from error
    return body if isinstance(body, dict) else {}


async def root(_request: web.Request) -> web.Response:
    """Say what everybody polls for."""
    return web.Response(text="Ollama is running")


async def version(_request: web.Request) -> web.Response:
    """Tell the version that is imitated."""
    return web.json_response({"version": VERSION})


async def tags(request: web.Request) -> web.Response:
    """List the installed models."""
    models = [
        {
            "name": name,
            "model": name,
            "modified_at": wire.timestamp(),
            "size": LAYER_BYTES,
            "digest": "0" * 64,
            "details": DETAILS,
        }
        for name in request.app[STATE].backends
    ]
    return web.json_response({"models": models})


async def show(request: web.Request) -> web.Response:
    """Describe one model."""
    state = request.app[STATE]
    named(state, await read_request(request))
    facts = {
        "general.architecture": "llama",
        "general.parameter_count": 150_000,
        "llama.context_length": state.context_tokens,
        "llama.block_count": 2,
        "llama.embedding_length": 64,
    }
    shown = {"modelfile": "", "template": "", "details": DETAILS, "model_info": facts}
    return web.json_response(
        shown | {"capabilities": ["completion", "tools"], "modified_at": wire.timestamp()}
    )


async def processes(request: web.Request) -> web.Response:
    """List the models in memory; waits while one loads, as Ollama does."""
    state = request.app[STATE]
    async with state.loading:
        now = datetime.now(UTC)
        for name, held in list(state.loaded.items()):
            if held.expires_at <= now and not held.running:
                del state.loaded[name]
        longest_first = sorted(state.loaded.items(), key=lambda item: item[1].expires_at, reverse=True)
    models = [
        {
            "name": name,
            "model": name,
            "size": LAYER_BYTES,
            "digest": "0" * 64,
            "details": DETAILS,
            "expires_at": wire.timestamp(held.expires_at),
            "size_vram": 0,
            "context_length": held.context_tokens,
        }
        for name, held in longest_first
    ]
    return web.json_response({"models": models})


async def pull(request: web.Request) -> web.StreamResponse:
    """Install a model with much ado; a name with `missing` in it is in no registry."""
    state = request.app[STATE]
    body = await read_request(request)
    given = str(body.get("model") or body.get("name") or "")
    absent = "pull model manifest: file does not exist"
    if body.get("stream") is False:
        if "missing" in given:
            raise ProtocolError(500, absent)
        state.backends.setdefault(given if ":" in given else f"{given}:latest", state.default_backend)
        return web.json_response({"status": "success"})
    response = await begin_lines(request)
    await send_line(response, {"status": "pulling manifest"})
    if "missing" in given:
        await send_line(response, {"error": absent})
        return response
    layer = {"digest": "sha256:" + "ab" * 32, "total": LAYER_BYTES}
    for step in range(PULL_STEPS + 1):
        done = {"completed": LAYER_BYTES * step // PULL_STEPS}
        await send_line(response, {"status": "pulling abababababab", **layer, **done})
        await asyncio.sleep(PULL_STEP_S)
    for status in ("verifying sha256 digest", "writing manifest", "removing unused layers", "success"):
        await send_line(response, {"status": status})
    state.backends.setdefault(given if ":" in given else f"{given}:latest", state.default_backend)
    return response


async def generate(request: web.Request) -> web.Response:
    """Load or unload: only the empty prompt is imitated."""
    state = request.app[STATE]
    body = await read_request(request)
    name = named(state, body)
    if body.get("prompt"):
        raise ProtocolError(400, "the stand-in generates through /api/chat only")
    unload = body.get("keep_alive") is not None and wire.keep_alive_s(body["keep_alive"]) == 0
    if not unload:
        await load(state, name, body)
    keep(state, name, body)
    reason = "unload" if unload else "load"
    answer = {"model": body["model"], "created_at": wire.timestamp(), "response": "", "done": True}
    return web.json_response(answer | {"done_reason": reason})


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer a chat with the backend's words."""
    state = request.app[STATE]
    body = state.last_chat = await read_request(request)
    name = named(state, body)
    if state.take("queue_full"):
        raise ProtocolError(503, QUEUE_FULL)
    if body.get("think"):
        raise ProtocolError(400, f'"{body["model"]}" does not support thinking')
    if not 0 <= (body.get("top_logprobs") or 0) <= 20:
        raise ProtocolError(400, "top_logprobs must be between 0 and 20")
    load_ns = await load(state, name, body)
    held = state.loaded[name]
    held.running += 1
    try:
        if not body.get("messages"):
            empty = {"role": "assistant", "content": ""}
            return web.json_response(line(body, empty) | {"done": True, "done_reason": "load"})
        return await answer_chat(request, name, body, load_ns)
    finally:
        held.running -= 1
        keep(state, name, body)


async def answer_chat(
    request: web.Request, name: str, body: dict[str, Any], load_ns: int
) -> web.StreamResponse:
    """Ask the backend and translate what it says; leaving this closes the backend's connection."""
    stream = body.get("stream", True)
    asked = wire.openai_request(body, name, stream=stream)
    url = request.app[STATE].backends[name] + "/v1/chat/completions"
    async with request.app[SESSION].post(url, json=asked) as backend:
        if backend.status != 200:
            text = await backend.text()
            if "exceed_context_size_error" not in text or body.get("truncate") is False:
                raise_backend_error(backend.status, text)
            fewer = shortened(body["messages"], shift=body.get("shift") is not False)
            return await answer_chat(request, name, body | {"messages": fewer}, load_ns)
        if not stream:
            document = await backend.json()
            choice = document["choices"][0]
            message = wire.message_of(choice["message"])
            end = wire.ending(document, choice["finish_reason"], load_ns)
            return web.json_response(line(body, message) | end | wire.logprobs_of(choice))
        return await relay_lines(request, backend, body, load_ns)


async def relay_lines(
    request: web.Request, backend: aiohttp.ClientResponse, body: dict[str, Any], load_ns: int
) -> web.StreamResponse:
    """Translate the backend's events into lines as they arrive."""
    state = request.app[STATE]
    cut, error_line = state.take("cut"), state.take("error_line")
    response = await begin_lines(request)
    calls: dict[int, dict[str, Any]] = {}
    finish, last = None, {}
    async for raw in backend.content:
        data = raw.removeprefix(b"data: ").strip()
        if not data or data == b"[DONE]":
            continue
        last = json.loads(data)
        for choice in last.get("choices") or ():
            finish = choice.get("finish_reason") or finish
            gather_calls(calls, choice["delta"])
            message = wire.message_of(choice["delta"] | {"tool_calls": None})
            if message["content"] or "thinking" in message:
                await send_line(response, line(body, message) | wire.logprobs_of(choice))
                if error_line:
                    await send_line(response, {"error": "model runner has unexpectedly stopped"})
                    return response
                if cut and request.transport is not None:
                    request.transport.abort()
                    return response
    if calls:
        await send_line(response, line(body, wire.message_of({"tool_calls": list(calls.values())})))
    empty = {"role": "assistant", "content": ""}
    await send_line(response, line(body, empty) | wire.ending(last, finish, load_ns))
    return response


def gather_calls(calls: dict[int, dict[str, Any]], delta: dict[str, Any]) -> None:
    """Join the pieces of tool calls; Ollama sends each whole."""
    for piece in delta.get("tool_calls") or ():
        call = calls.setdefault(piece.get("index", 0), {"function": {"name": "", "arguments": ""}})
        for part in ("name", "arguments"):
            call["function"][part] += (piece.get("function") or {}).get(part) or ""


def line(body: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Return one line of a chat."""
    return {"model": body["model"], "created_at": wire.timestamp(), "message": message, "done": False}


def raise_backend_error(status: int, text: str) -> None:
    """Say the backend's error as Ollama does: with the backend's words and status."""
    try:
        words = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        words = f"llama runner: {text[:200]}"
    raise ProtocolError(status if status == 400 else 500, words)


async def begin_lines(request: web.Request) -> web.StreamResponse:
    """Begin an answer of JSON lines."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    return response


async def send_line(response: web.StreamResponse, document: dict[str, Any]) -> None:
    """Send one JSON line."""
    await response.write(json.dumps(document).encode() + b"\n")


async def openai_chat(request: web.Request) -> web.StreamResponse:
    """Pass an OpenAI request through; Ollama itself offers this route beside its own."""
    state = request.app[STATE]
    body = await read_request(request)
    name = named(state, body)
    await load(state, name, {})
    keep(state, name, {})
    async with request.app[SESSION].post(
        state.backends[name] + "/v1/chat/completions", json=body | {"model": name}
    ) as backend:
        if backend.status != 200:
            raise_backend_error(backend.status, await backend.text())
        response = web.StreamResponse(headers={"Content-Type": backend.headers["Content-Type"]})
        await response.prepare(request)
        async for data in backend.content.iter_any():
            await response.write(data)
        return response


async def embed(request: web.Request) -> web.Response:
    """Make vectors with the backend. Cutting what is too long is not imitated: it is refused."""
    state = request.app[STATE]
    body = state.last_chat = await read_request(request)
    name = named(state, body)
    await load(state, name, body)
    keep(state, name, body)
    url = state.backends[name] + "/v1/embeddings"
    async with request.app[SESSION].post(url, json={"model": name, "input": body["input"]}) as backend:
        if backend.status != 200:
            await backend.read()
            raise ProtocolError(400, "the input length exceeds the context length")
        document = await backend.json()
    vectors = [each["embedding"] for each in document["data"]]
    counted = {"prompt_eval_count": document["usage"]["prompt_tokens"]}
    return web.json_response({"model": body["model"], "embeddings": vectors, **counted})


async def openai_models(request: web.Request) -> web.Response:
    """List the installed models as OpenAI does."""
    entries = [
        {"id": name, "object": "model", "created": 1, "owned_by": "library"}
        for name in request.app[STATE].backends
    ]
    return web.json_response({"object": "list", "data": entries})


async def stats(request: web.Request) -> web.Response:
    """Show what was counted."""
    state = request.app[STATE]
    counted = {"requests": dict(state.requests), "loads": dict(state.loads), "aborted": state.aborted}
    return web.json_response(counted | {"last_chat": state.last_chat})


async def set_faults(request: web.Request) -> web.Response:
    """Make the next chats fail."""
    request.app[STATE].faults.update(await read_request(request))
    return web.json_response({})


async def hold_session(app: web.Application) -> Any:
    """Keep a session to the backends open while the stand-in runs."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        app[SESSION] = session
        yield


def make_app(state: State) -> web.Application:
    """Put the routes together."""
    app = web.Application(middlewares=[answer_errors], client_max_size=64 * 1024 * 1024)
    app[STATE] = state
    app.cleanup_ctx.append(hold_session)
    app.add_routes(
        [
            # Ollama has no /health: that one is for whoever starts this program.
            *(
                web.get("/", root),
                web.get("/health", root),
                web.get("/api/version", version),
                web.get("/api/tags", tags),
            ),
            *(web.post("/api/show", show), web.get("/api/ps", processes), web.post("/api/pull", pull)),
            *(web.post("/api/generate", generate), web.post("/api/chat", chat)),
            web.post("/api/embed", embed),
            *(web.post("/v1/chat/completions", openai_chat), web.get("/v1/models", openai_models)),
            *(web.get("/standin/stats", stats), web.post("/standin/faults", set_faults)),
        ]
    )
    return app


def end_with_standard_input() -> None:
    """End the process when whoever started it is gone."""
    # Unbuffered: a thread that waits in sys.stdin could not be left behind at a graceful end.
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    """Read the options and serve on 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", required=True, help="base URL of a llama.cpp server")
    parser.add_argument("--model", action="append", default=[], help="NAME, or NAME=BACKEND for its own one")
    parser.add_argument(
        "--context", type=int, default=2048, help="the window that models report and load with"
    )
    options = parser.parse_args()
    backends = {}
    for entry in options.model or ["tiny:latest"]:
        name, _, url = entry.partition("=")
        backends[name if ":" in name else f"{name}:latest"] = url or options.backend
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    state = State(backends, options.backend, options.context)
    web.run_app(make_app(state), host="127.0.0.1", port=options.port, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
