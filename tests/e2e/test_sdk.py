"""The Python API: the same in this process and over HTTP."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from tests.e2e.conftest import ENDLESS, House, settings_for
from trivet import Trivet
from trivet.domain.errors import (
    IdempotencyCompleted,
    KeyInvalid,
    ModelUnknown,
    ServerUnreachable,
    StoreLocked,
)


@pytest.fixture(scope="module")
def attached(
    llama_server: Callable[..., str], tiny_models: Mapping[str, Path]
) -> dict[str, list[dict[str, object]]]:
    """Deployments of three running servers."""
    return {
        tier: [{"model": f"llamacpp/tiny-{tier}", "url": llama_server(path), "context_tokens": 1024}]
        for tier, path in tiny_models.items()
    }


@pytest.fixture(params=["open", "connect"])
async def trivet(
    request: pytest.FixtureRequest, house: House, attached: dict[str, list[dict[str, object]]], tmp_path: Path
) -> AsyncIterator[Trivet]:
    """Trivet here, and Trivet elsewhere."""
    if request.param == "open":
        found = Trivet.open(settings=settings_for(tmp_path, attached))
    else:
        found = Trivet.connect(house.url, api_key=house.key("sdk.team"))
    async with found:
        yield found


async def test_complete(trivet: Trivet) -> None:
    """A completion has text, usage, and who answered why."""
    answer = await trivet.complete("Hello", max_tokens=8, **ENDLESS)
    assert answer.text
    assert 0 < answer.usage["completion_tokens"] <= 8
    assert (answer.facts.tier, answer.facts.attempts) == ("light", 1)


async def test_stream(trivet: Trivet) -> None:
    """A stream yields the text in pieces."""
    async with await trivet.complete("Hello", max_tokens=8, stream=True, **ENDLESS) as stream:
        pieces = [piece async for piece in stream.texts()]
    assert "".join(pieces)
    assert stream.facts.tier == "light"


async def test_leaving_a_stream_early(trivet: Trivet) -> None:
    """A stream that is left early is closed, and the next request works."""
    async with await trivet.complete("Hello", max_tokens=200, stream=True, **ENDLESS) as stream:
        async for _ in stream:
            break
    assert (await trivet.complete("Hello", max_tokens=4, **ENDLESS)).text


async def test_route(trivet: Trivet) -> None:
    """A decision takes hints and executes nothing."""
    decision = await trivet.route("Hello", task_type="fix_bug", capabilities=["security_analysis"])
    assert (decision.tier, decision.raw["policy"]) == ("standard", "code")
    assert decision.reasons


async def test_the_same_request_is_not_run_twice(trivet: Trivet) -> None:
    """An idempotency key is a header, no parameter of the engine; asked again, it tells what became of it."""
    await trivet.complete("Hello", max_tokens=4, idempotency_key="once", **ENDLESS)
    with pytest.raises(IdempotencyCompleted):
        await trivet.complete("Hello", max_tokens=4, idempotency_key="once", **ENDLESS)


async def test_a_grant_that_was_cut_is_told(house: House) -> None:
    """What a budget had left is the cap that counts."""
    async with house.http() as admin:
        await admin.put("/api/v1/budgets/sdk-cut", json={"request": 200})
    async with Trivet.connect(house.url, api_key=house.key("sdk-cut")) as trivet:
        answer = await trivet.complete("Hello", max_tokens=200, **ENDLESS)
    assert answer.facts.max_tokens == answer.usage["completion_tokens"] < 200


async def test_errors_keep_their_kind(trivet: Trivet) -> None:
    """An error arrives as the class that it was."""
    with pytest.raises(ModelUnknown, match="nonesuch"):
        await trivet.complete("Hello", model="nonesuch")


async def test_reports(trivet: Trivet) -> None:
    """Savings and usage are there, always with `gpu_hours_saved`."""
    await trivet.complete("Hello", max_tokens=4)
    savings = await trivet.savings(since="1h")
    usage = await trivet.usage(since="1h", by="tier")
    assert (savings["gpu_hours_saved"], savings["unit"]) == (0.0, "engine_seconds")
    assert {row["tier"] for row in usage["rows"]} >= {"light"}


async def test_wrong_key(house: House) -> None:
    """A wrong key is told at the first call."""
    async with Trivet.connect(house.url, api_key="tvt_nope") as trivet:
        with pytest.raises(KeyInvalid):
            await trivet.complete("Hello")


async def test_nobody_there() -> None:
    """An address without a server says what to do."""
    async with Trivet.connect("http://127.0.0.1:9") as trivet:
        with pytest.raises(ServerUnreachable, match="trivet serve"):
            await trivet.complete("Hello")


async def test_open_fails_at_once_when_a_server_owns_the_store(house: House) -> None:
    """The error names the server's URL, and no engine is started."""
    with pytest.raises(StoreLocked, match=house.url):
        async with Trivet.open(settings=house.trivet.settings):
            pass


async def test_must_be_entered() -> None:
    """Using it outside its context is a programming error that says so."""
    with pytest.raises(RuntimeError, match="async with"):
        await Trivet.connect("http://127.0.0.1:9").complete("Hello")
