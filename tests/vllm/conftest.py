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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.vllm)


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
def vllm_server(start_vllm: StartVllm) -> VllmServer:
    """Give one healthy server for the whole session: 256 tokens of context, 4 slots, a queue limit of 6.

    Its cache of 8 blocks holds 1,024 tokens, so four long requests fill it. Leave it idle and alive.
    """
    shared = start_vllm(context_tokens=256, arguments=("--num-gpu-blocks-override", "8"))
    shared.wait_ready()
    return shared


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
