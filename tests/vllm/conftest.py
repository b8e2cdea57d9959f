"""Real vLLM servers for the tests of this directory, which carry the marker `vllm`.

`scripts/setup-vllm --cpu` makes the environment; without it the tests fail rather than vanish.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.vllm import server, tiny_qwen2
from tests.vllm.calls import deployment
from tests.vllm.server import VllmServer
from trivet.domain.tiers import TransportKind
from trivet.engines.connect import open_session, open_transport
from trivet.engines.protocol import Transport

StartVllm = Callable[..., VllmServer]

HERE = Path(__file__).parent
LONG_CONTEXT_TOKENS = 32_768


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory; what kills the shared server comes last."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.vllm)
    items.sort(key=lambda item: wants(item, "last_of_vllm_server"))


def wants(item: pytest.Item, fixture: str) -> bool:
    """Tell whether a test needs a fixture."""
    return fixture in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def start_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartVllm]:
    """Give `start(*, context_tokens, arguments=())`, which starts a server without waiting for it.

    Every server that was started is ended with the session, if its user has not stopped it before.
    """
    if not server.VENV_PYTHON.exists():
        pytest.fail("There is no vLLM in .venv-vllm: run ./scripts/setup-vllm --cpu first.", pytrace=False)
    home = tmp_path_factory.mktemp("vllm")
    tiny_qwen2.write_model(home / "model")
    started: list[VllmServer] = []

    def start(*, context_tokens: int, arguments: tuple[str, ...] = ()) -> VllmServer:
        started.append(
            server.launch(home / "model", home, context_tokens=context_tokens, arguments=arguments)
        )
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.stop()


@pytest.fixture(scope="session")
def loading(request: pytest.FixtureRequest, start_vllm: StartVllm) -> dict[str, VllmServer]:
    """Give the servers of the session, started side by side: most of a start keeps one core busy."""
    servers = {"shared": start_vllm(context_tokens=256, arguments=("--num-gpu-blocks-override", "8"))}
    if any(wants(item, "doomed") for item in request.session.items):
        servers["doomed"] = start_vllm(context_tokens=LONG_CONTEXT_TOKENS)
    return servers


@pytest.fixture(scope="session")
def vllm_server(loading: dict[str, VllmServer]) -> VllmServer:
    """Give one healthy server for the whole session: 256 tokens of context, 4 slots, a queue limit of 6.

    Its cache of 8 blocks holds 1,024 tokens, so four long requests fill it. Leave it idle and alive.
    """
    loading["shared"].wait_ready()
    return loading["shared"]


@pytest.fixture
def last_of_vllm_server(vllm_server: VllmServer) -> VllmServer:
    """Give the shared server to a test that may kill it: it runs after all others."""
    return vllm_server


@pytest.fixture(scope="session")
def doomed(loading: dict[str, VllmServer]) -> VllmServer:
    """Give a healthy server with room for an endless answer to the one test that kills it."""
    loading["doomed"].wait_ready()
    return loading["doomed"]


@pytest.fixture(scope="session")
def vllm_url(vllm_server: VllmServer) -> str:
    """Give the shared server's base URL, without `/v1`."""
    return vllm_server.url


@pytest.fixture(scope="session")
def vllm_model(vllm_server: VllmServer) -> str:
    """Give the name under which the shared server serves its model."""
    return vllm_server.model


@pytest.fixture(params=["relay", "litellm"])
async def transport(request: pytest.FixtureRequest, vllm_server: VllmServer) -> AsyncIterator[Transport]:
    """Give each of the two ways to the shared server in turn."""
    kind: TransportKind = request.param
    async with open_session() as session:
        way = open_transport(deployment(vllm_server, kind), session=session, api_key=None)
        yield way
        await way.aclose()
