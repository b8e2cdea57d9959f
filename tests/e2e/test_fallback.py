"""The chain in front of engines that fail, next to a real one that works."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import House, serving, settings_for
from tests.e2e.test_cli import trivet

MESSAGES = [{"role": "user", "content": "Hello"}]
FAILING = (
    "503",
    "429",
    "500",
    "html502",
    "redirect",
    "error-in-200",
    "garbage",
    "no-choices",
    "close-no-reply",
)


@pytest.fixture(scope="module")
async def faulty(
    fault_server: str,
    llama_server: Callable[..., str],
    tiny_models: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """LIGHT holds a deployment for each fault, STANDARD one that works, HEAVY nothing that answers."""
    others = ("hang", "stall", "cut", "early-end", "role-then-error", "wrong-usage-huge", "no-usage", "400")
    place = {"url": fault_server, "context_tokens": 4096, "local": True, "devices": ["host"]}
    light = [{"name": f"fault-{fault}", "model": f"openai/{fault}", **place} for fault in (*FAILING, *others)]
    real = {"name": "real", "model": "llamacpp/tiny-light", "url": llama_server(tiny_models["light"])}
    gone = {"name": "gone", "model": "openai/gone", "url": "http://127.0.0.1:9", "context_tokens": 4096}
    settings = settings_for(
        tmp_path_factory.mktemp("faulty"),
        {"light": light, "standard": [real], "heavy": [gone]},
        execution={
            "deadline_s": 4.0,
            "first_content_timeout_s": 1.0,
            "idle_timeout_s": 1.0,
            "max_attempts": 30,
            "breaker_consecutive_failures": 1000,
        },
    )
    async with serving(settings) as found:
        yield found


async def pinned(house: House, name: str, *, stream: bool = False) -> tuple[int, bytes]:
    """Ask exactly one deployment; return status and body."""
    body = {"model": name, "messages": MESSAGES, "max_tokens": 16, "stream": stream}
    async with house.http() as http:
        answer = await http.post("/v1/chat/completions", json=body)
        return answer.status_code, answer.content


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("503", 503, "upstream_busy"),
        ("429", 503, "upstream_busy"),
        ("500", 502, "upstream_error"),
        ("html502", 502, "upstream_error"),
        ("redirect", 502, "upstream_error"),
        ("garbage", 502, "upstream_error"),
        ("no-choices", 502, "upstream_error"),
        ("close-no-reply", 502, "upstream_error"),
        ("hang", 504, "upstream_timeout"),
        ("400", 400, "upstream_rejected"),
    ],
)
async def test_one_engine_and_its_fault(faulty: House, fault: str, status: int, code: str) -> None:
    """Without another candidate the fault is told as what it is, and the hold is given back."""
    found, body = await pinned(faulty, f"fault-{fault}")
    assert (found, json.loads(body)["error"]["code"]) == (status, code)


async def test_nobody_answers(faulty: House) -> None:
    """A refused connection is `upstream_unavailable`."""
    status, body = await pinned(faulty, "gone")
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_unavailable")


async def test_error_inside_a_200_stream(faulty: House) -> None:
    """vLLM's full queue inside a 200 stream becomes a real 503."""
    status, body = await pinned(faulty, "fault-error-in-200", stream=True)
    assert (status, json.loads(body)["error"]["code"]) == (503, "upstream_busy")


async def test_error_after_a_role_frame(faulty: House) -> None:
    """An error after a role-only frame still comes before any content, so it is a real status."""
    status, body = await pinned(faulty, "fault-role-then-error", stream=True)
    assert status >= 500
    assert "error" in json.loads(body)


@pytest.mark.parametrize("fault", ["cut", "early-end", "stall"])
async def test_broken_streams_say_so(faulty: House, fault: str) -> None:
    """A stream that breaks after its first content ends with an error event and without [DONE]."""
    status, body = await pinned(faulty, f"fault-{fault}", stream=True)
    events = [event for event in body.decode().split("\n\n") if event]
    last = json.loads(events[-1].removeprefix("data: "))
    assert status == 200
    assert len(events) > 1
    assert last["error"]["code"].startswith("upstream_")
    assert b"[DONE]" not in body


@pytest.mark.parametrize("stream", [False, True])
async def test_falls_through_every_fault(faulty: House, stream: bool) -> None:
    """Whatever the cheaper engines do before the first byte, the working one answers."""
    key = faulty.key("through")
    body = {
        "model": "light",
        "messages": MESSAGES,
        "max_tokens": 8,
        "stream": stream,
        "metadata": {"max_tier": "standard"},
    }
    async with faulty.http(key) as http:
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-trivet-attempts"].isdigit()


async def test_everything_fails(faulty: House) -> None:
    """When no candidate works the error lists what was tried, also twice, without addresses."""
    status, body = await pinned(faulty, "gone")
    error = json.loads(body)["error"]
    assert status == 502
    assert [attempt["deployment"] for attempt in error["trivet"]["attempts"]] == ["gone", "gone"]
    assert "127.0.0.1" not in json.dumps(error)


@pytest.mark.parametrize("fault", ["wrong-usage-huge", "no-usage"])
async def test_usage_that_cannot_be_true_is_not_charged(faulty: House, fault: str) -> None:
    """A lying or silent engine costs at most the request's own ceiling."""
    key = faulty.key(f"lied.{fault}")
    async with faulty.http(key) as http:
        body = {"model": f"fault-{fault}", "messages": MESSAGES, "max_tokens": 16, "stream": True}
        estimate = (await http.post("/api/v1/route", json=body)).json()["estimated"]
        answer = await http.post("/v1/chat/completions", json=body)
        rows = (await http.get(f"/api/v1/budgets/lied.{fault}/status")).json()["rows"]
    assert answer.status_code == 200
    assert {row["held"] for row in rows} == {0}
    own = [row["used"] for row in rows if row["scope"] == f"lied.{fault}"]
    ceiling = estimate["prompt_tokens"] + estimate["max_output_tokens"]
    assert [used for used in own if not 0 < used <= ceiling] == []


async def test_failures_cost_nothing(faulty: House) -> None:
    """An attempt that was refused before generation is not charged."""
    key = faulty.key("refunded")
    async with faulty.http(key) as http:
        for fault in ("503", "500", "garbage"):
            await http.post("/v1/chat/completions", json={"model": f"fault-{fault}", "messages": MESSAGES})
        rows: list[dict[str, Any]] = (await http.get("/api/v1/budgets/refunded/status")).json()["rows"]
    assert [(row["used"], row["held"]) for row in rows] == [(0, 0)] * len(rows)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_byte(faulty: House, fault_server: str, stream: bool) -> None:
    """A client that leaves while the engine is silent cancels upstream at once and closes the hold."""
    scope = f"early.{'stream' if stream else 'plain'}"
    body = {"model": "fault-hang", "messages": MESSAGES, "max_tokens": 16, "stream": stream}

    async def aborted() -> int:
        async with httpx.AsyncClient(trust_env=False) as direct:
            return int((await direct.get(f"{fault_server}/stats")).json()["aborted"])

    before = await aborted()
    async with faulty.http(faulty.key(scope)) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await http.post("/v1/chat/completions", json=body)
    for _ in range(100):
        if await aborted() > before:
            break
        await asyncio.sleep(0.005)
    assert await aborted() == before + 1
    async with faulty.http() as admin:
        rows = (await admin.get(f"/api/v1/budgets/{scope}/status")).json()["rows"]
        proof = (await admin.post("/api/v1/ledger/verify")).json()
    assert {row["held"] for row in rows} == {0}
    assert min(row["used"] for row in rows) > 0
    assert proof["ok"]


@pytest.mark.parametrize("answered", [True, False])
async def test_silent_attempts_are_charged(
    fault_server: str,
    llama_server: Callable[..., str],
    tiny_models: Mapping[str, Path],
    tmp_path: Path,
    answered: bool,
) -> None:
    """An engine that took the prompt and fell silent may have read it, so its prompt is charged."""
    silent = {"name": "silent", "model": "openai/hang", "url": fault_server, "context_tokens": 4096}
    real = {"name": "real", "model": "llamacpp/tiny-light", "url": llama_server(tiny_models["light"])}
    gone = {"name": "gone", "model": "openai/gone", "url": "http://127.0.0.1:9"}
    deployments: dict[str, list[dict[str, Any]]] = {
        "light": [silent],
        "standard": [real if answered else gone],
        "heavy": [gone | {"name": "away"}],
    }
    settings = settings_for(tmp_path, deployments, execution={"first_content_timeout_s": 0.5})
    body = {
        "model": "light",
        "messages": MESSAGES,
        "max_tokens": 8,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with serving(settings) as found, found.http() as http:
        estimated = (await http.post("/api/v1/route", json=body)).json()["estimated"]
        answer = await http.post("/v1/chat/completions", json=body)
        rows = (await http.get("/api/v1/budgets/default/status")).json()["rows"]
        history = (await http.get("/api/v1/ledger/history", params={"scope": "default"})).json()
        proof = (await http.post("/api/v1/ledger/verify")).json()
    assert proof["ok"]
    # The silent attempt has an entry of its own, at its own tier's weight.
    own = [entry for entry in history["entries"] if entry["kind"] == "attempt"]
    assert [entry["used"]["weighted_tokens"] for entry in own] == [estimated["prompt_tokens"]]
    ceiling = estimated["prompt_tokens"] + estimated["max_output_tokens"]
    assert answer.status_code == (200 if answered else 504)
    assert {row["held"] for row in rows} == {0}
    if answered:
        usage = json.loads(answer.text.split("\n\n")[-3].removeprefix("data: "))["usage"]
        assert rows[0]["used"] == min(ceiling, usage["total_tokens"] + estimated["prompt_tokens"])
    else:
        assert rows[0]["used"] == estimated["prompt_tokens"]


async def test_breaker_opens_and_is_told(
    fault_server: str, llama_server: Callable[..., str], tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """After five failures in a row the broken engine is not asked any more, and who looks is told so."""
    broken = {"name": "broken", "model": "openai/500", "url": fault_server, "context_tokens": 4096}
    real = {"name": "real", "model": "llamacpp/tiny-light", "url": llama_server(tiny_models["light"])}
    gone = {"name": "gone", "model": "openai/gone", "url": "http://127.0.0.1:9"}
    # Open for longer than the slowest machine takes to look.
    settings = settings_for(
        tmp_path,
        {"light": [broken], "standard": [real], "heavy": [gone]},
        execution={"breaker_open_s": 50.0},
    )
    async with serving(settings) as found, found.http() as http:
        attempts = []
        for _ in range(7):
            answer = await http.post(
                "/v1/chat/completions", json={"model": "light", "messages": MESSAGES, "max_tokens": 4}
            )
            attempts.append(int(answer.headers["x-trivet-attempts"]))
        metrics = (await http.get("/metrics")).text
        listed = (await http.get("/api/v1/deployments")).json()["deployments"]
        table = await asyncio.to_thread(
            trivet, "engines", "--url", found.url, "--api-key", found.trivet.owner_token
        )
    assert attempts == [2, 2, 2, 2, 2, 1, 1]
    breakers = {each["name"]: each["breaker"] for each in listed}
    assert (breakers["broken"]["state"], breakers["real"]["state"], breakers["gone"]) == (
        "open",
        "closed",
        None,
    )
    assert 0 < breakers["broken"]["retry_after_s"] <= 50
    assert table.stdout.count("circuit open: asked again in ") == 1
    assert 'trivet_breaker_open{deployment="broken"} 1.0' in metrics


async def test_an_odd_request_does_not_close_the_only_engine(fault_server: str, tmp_path: Path) -> None:
    """Repeated, a request that one engine alone answers with a fault counts once; others count each."""
    only = {"name": "only", "model": "openai/500", "url": fault_server, "context_tokens": 4096}
    gone = {"name": "gone", "model": "openai/gone", "url": "http://127.0.0.1:9"}
    settings = settings_for(
        tmp_path, {"light": [only], "standard": [gone], "heavy": [gone | {"name": "away"}]}
    )

    async def codes(*texts: str) -> list[str]:
        async with found.http() as http:
            bodies = ({"model": "only", "messages": [{"role": "user", "content": text}]} for text in texts)
            answers = [await http.post("/v1/chat/completions", json=body) for body in bodies]
        return [answer.json()["error"]["code"] for answer in answers]

    async with serving(settings) as found:
        assert await codes(*["odd"] * 9) == ["upstream_error"] * 9
        assert await codes("a", "b", "c", "d") == ["upstream_error"] * 4
        assert await codes("e") == ["upstream_unavailable"]


async def test_one_request_cannot_close_the_way_for_all(fault_server: str, tmp_path: Path) -> None:
    """Where every engine answers the same request with 500 the request is blamed, not the engines."""
    broken = {
        tier: [{"name": f"b-{tier}", "model": "openai/500", "url": fault_server, "context_tokens": 4096}]
        for tier in ("light", "standard", "heavy")
    }
    async with serving(settings_for(tmp_path, broken)) as found, found.http() as http:
        answers = [
            await http.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 4})
            for _ in range(7)
        ]
        metrics = (await http.get("/metrics")).text
    assert {answer.status_code for answer in answers} == {502}
    assert [int(answer.headers["x-trivet-attempts"]) for answer in answers] == [3] * 7
    assert all(answer.headers["x-trivet-decision-id"] for answer in answers)
    assert 'trivet_breaker_open{deployment="b-light"} 0.0' in metrics
