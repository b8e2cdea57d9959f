"""What OllamaAdmin finds and does at a server that speaks Ollama's protocol (a stand-in, not Ollama)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import pytest_asyncio

from tests.contract.calls import call_for, deployment_of, read_whole
from tests.contract.conftest import StandIn
from trivet.domain.errors import EngineBroken, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from trivet.engines.litellm import LiteLLMTransport
from trivet.engines.ollama import LoadedModel, OllamaAdmin, PullProgress, ShownModel
from trivet.engines.protocol import ServedModel

TINY = "tiny:latest"
NOBODY = "http://127.0.0.1:9"


@pytest_asyncio.fixture(loop_scope="session")
async def admin(ollama: StandIn) -> AsyncIterator[OllamaAdmin]:
    """Give an admin of the module's stand-in."""
    admin = OllamaAdmin(ollama.url)
    yield admin
    await admin.aclose()


async def loaded_tiny(admin: OllamaAdmin) -> LoadedModel | None:
    """Return the light model as it is in memory, or None."""
    return next((model for model in await admin.loaded() if model.name == TINY), None)


async def until_gone(admin: OllamaAdmin) -> None:
    """Return once the light model is out of memory: Ollama unloads after it has answered."""
    async with asyncio.timeout(10):
        while True:
            if await loaded_tiny(admin) is None:
                return
            await asyncio.sleep(0.02)


async def collect(lines: AsyncIterator[PullProgress], into: list[PullProgress]) -> None:
    """Append a pull's progress, as far as it goes."""
    async for progress in lines:
        into.append(progress)  # noqa: PERF401 - what came before an error must not be lost


async def test_models(admin: OllamaAdmin) -> None:
    """The installed models are listed under their full names."""
    names = [model.name for model in await admin.models()]
    assert names[:2] == [TINY, "tiny-heavy:latest"]
    assert (await admin.models())[0] == ServedModel(TINY)


async def test_show(admin: OllamaAdmin) -> None:
    """A model's window, capabilities and size are read from wherever its architecture puts them."""
    expected = ShownModel(
        context_tokens=2048,
        capabilities=frozenset({"completion", "tools"}),
        parameter_size="150K",
        quantisation="F32",
    )
    assert await admin.show("tiny") == expected


async def test_show_of_a_model_that_is_absent(admin: OllamaAdmin) -> None:
    """A model that is not installed is refused with the command that installs it."""
    with pytest.raises(EngineRejected, match="ollama pull nope") as caught:
        await admin.show("nope")
    assert caught.value.status == 404


async def test_preload_and_unload(admin: OllamaAdmin) -> None:
    """A preloaded model is in memory with its window and its time, until it is unloaded."""
    await admin.preload("tiny", 1024, "10m")
    loaded = await loaded_tiny(admin)
    assert loaded is not None
    assert loaded.expires_at is not None
    left = loaded.expires_at - datetime.now(UTC)
    assert (loaded.context_tokens, loaded.vram_bytes, loaded.size_bytes > 0) == (1024, 0, True)
    assert timedelta(minutes=5) < left <= timedelta(minutes=10, seconds=5)
    await admin.unload("tiny")
    await until_gone(admin)


async def test_a_chat_finds_the_preloaded_model(admin: OllamaAdmin, ollama: StandIn) -> None:
    """A model is preloaded exactly as chats ask for it, so that the first chat does not load it anew."""
    await admin.unload("tiny")
    await until_gone(admin)
    await admin.preload("tiny", 2048, "10m")
    loads = (await ollama.stats())["loads"][TINY]
    transport = LiteLLMTransport(deployment_of(ollama.url, "tiny", engine="ollama"), api_key=None)
    await read_whole(transport, call_for("tiny"))
    await transport.aclose()
    assert (await ollama.stats())["loads"][TINY] == loads


async def test_keep_for_ever(admin: OllamaAdmin) -> None:
    """A negative keep_alive, which Ollama shows as centuries, is read."""
    await admin.preload("tiny", 1024, -1)
    loaded = await loaded_tiny(admin)
    assert loaded is not None
    assert loaded.expires_at is not None
    assert loaded.expires_at.year > 2200


async def test_loaded_does_not_wait_for_a_load(admin: OllamaAdmin, ollama: StandIn) -> None:
    """While a model loads Ollama does not answer; asking gives up in time."""
    await ollama.fail_next(load_delay_s=2.0)
    before = (await ollama.stats())["requests"].get("/api/generate", 0)
    load = asyncio.create_task(admin.preload("tiny-heavy", 1024, "5m"))
    async with asyncio.timeout(20):
        while True:
            if (await ollama.stats())["requests"].get("/api/generate", 0) > before:
                break
            await asyncio.sleep(0.02)
    with pytest.raises(EngineTimeout):
        await admin.loaded(timeout_s=0.1)
    await ollama.fail_next(load_delay_s=0)
    await load


async def test_pull(admin: OllamaAdmin) -> None:
    """A pull yields its progress, bytes included, and the model is there afterwards."""
    lines = [progress async for progress in admin.pull("fresh:1b")]
    assert lines[0] == PullProgress("pulling manifest")
    assert PullProgress("pulling abababababab", 4_000_000, 4_000_000) in lines
    assert lines[-1] == PullProgress("success")
    assert ServedModel("fresh:1b") in await admin.models()


async def test_pull_of_what_does_not_exist(admin: OllamaAdmin) -> None:
    """An error line inside a 200 answer is an error, after the progress before it."""
    lines: list[PullProgress] = []
    with pytest.raises(EngineRejected, match="library"):
        await collect(admin.pull("missing:1b"), lines)
    assert lines == [PullProgress("pulling manifest")]


async def test_pull_left_early(admin: OllamaAdmin, ollama: StandIn) -> None:
    """Closing the progress closes the connection, which is how Ollama is told to stop."""
    before = (await ollama.stats())["aborted"]
    async with aclosing(cast("Any", admin.pull("left:1b"))) as lines:
        await anext(lines)
    await ollama.wait_aborted(before)


async def test_nobody_there() -> None:
    """A refused connection is EngineUnavailable with what to do, for plain answers and for streams."""
    admin = OllamaAdmin(NOBODY)
    with pytest.raises(EngineUnavailable, match="ollama serve"):
        await admin.models()
    with pytest.raises(EngineUnavailable, match="ollama serve"):
        await anext(admin.pull("tiny"))
    await admin.aclose()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'HTTP/1.1 503 Busy\r\ncontent-length: 16\r\n\r\n{"error":"busy"}', EngineError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nnot json", EngineBroken),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 80\r\n\r\n{", EngineBroken),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot found", EngineRejected),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", EngineBroken),
        (b"", EngineBroken),
    ],
)
async def test_what_is_not_ollama(answer: bytes, expected: type[EngineError]) -> None:
    """Whatever a server answers, only EngineErrors come out."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        admin = OllamaAdmin(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(expected):
            await admin.models()
        await admin.aclose()


async def test_silence_during_a_pull() -> None:
    """A download that stops flowing ends with EngineTimeout; one that just ends is no success."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        length = int(request.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        name = await reader.readexactly(length)
        writer.write(b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{"status":"pulling manifest"}\n')
        await writer.drain()
        if b"silent" in name:
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        admin = OllamaAdmin(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(EngineTimeout):
            _ = [progress async for progress in admin.pull("silent", silence_s=0.2)]
        with pytest.raises(EngineBroken, match="resumes"):
            _ = [progress async for progress in admin.pull("short")]
        await admin.aclose()
