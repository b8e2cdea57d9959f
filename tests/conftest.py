"""Fixtures that every test may use: tiny models, real llama.cpp servers, the fault server."""

import gc
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest
import pytest_asyncio
from hypothesis import settings

from tests.counts import scaled
from tests.doubles.programs import Programs
from tests.doubles.shared_store import SharedStore
from trivet.engines.connect import open_session
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.lab.scratch_redis import ScratchRedis
from trivet.lab.tiny_models import write_tiny_models

# Timing says nothing on a shared machine; the count follows the one setting that all long runs obey.
settings.register_profile("trivet", deadline=None, max_examples=scaled(50))
settings.load_profile("trivet")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and so would the commands under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spare the garbage collector modules and tests, which live as long as the session."""
    gc.collect()
    gc.freeze()


class StartLlama(Protocol):
    """What the fixture `llama_server` gives."""

    def __call__(
        self, model: Path, *, alias: str | None = None, context_tokens: int = 2048, slots: int = 4
    ) -> str:
        """Start a server of its own for a model file; return its base URL without `/v1`."""
        ...


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """Give a starter of programs; whatever it started ends with the session."""
    started = Programs()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[ScratchPostgres]:
    """Give a PostgreSQL server of our own. Nothing here tests the disk, so it need not wait for it."""
    with ScratchPostgres(durable=False) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: ScratchPostgres) -> str:
    """Give the URL of an empty database of this test's own."""
    return postgres.new_database()


@pytest.fixture(scope="session")
def shared_store(postgres: ScratchPostgres) -> SharedStore:
    """Give a PostgreSQL store for one test after the other."""
    return SharedStore(postgres.new_database())


@pytest.fixture(scope="session")
def redis() -> Iterator[ScratchRedis]:
    """Give a Redis server of our own; whoever uses it empties it first."""
    with ScratchRedis() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give a tiny GGUF model per tier name: light, standard, heavy."""
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def llama_server(programs: Programs) -> StartLlama:
    """Give a factory of real llama.cpp servers: `llama_server(model_file, ...)` returns the base URL."""

    def start(model: Path, *, alias: str | None = None, context_tokens: int = 2048, slots: int = 4) -> str:
        return programs.start_llama(model, alias=alias, context_tokens=context_tokens, slots=slots).url

    return start


@pytest.fixture(scope="session")
def light_url(programs: Programs, tiny_models: dict[str, Path]) -> str:
    """Give the base URL of one shared llama.cpp server with the light model, served as `tiny-light`."""
    return programs.start_llama(tiny_models["light"]).url


@pytest.fixture(scope="session")
def heavy_url(programs: Programs, tiny_models: dict[str, Path]) -> str:
    """Give the base URL of one shared llama.cpp server with the heavy model, served as `tiny-heavy`."""
    return programs.start_llama(tiny_models["heavy"]).url


@pytest.fixture(scope="session")
def fault_server(programs: Programs) -> str:
    """Give the base URL of the shared fault server; the `model` of a request names the fault."""
    return programs.start_fault_server().url


@pytest_asyncio.fixture(scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Give the shared HTTP session that transports and probes use."""
    async with open_session() as opened:
        yield opened
