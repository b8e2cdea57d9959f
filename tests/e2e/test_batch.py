"""Batches from end to end: submitted, worked off by real engines, collected, cancelled, resumed."""

import asyncio
import json
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.doubles.programs import Programs
from tests.e2e.conftest import (
    House,
    ServerProcess,
    launched,
    server_process,
    serving,
    settings_for,
)
from tests.e2e.test_cli import trivet as trivet_command
from trivet import Trivet
from trivet.config.settings import Settings
from trivet.domain.errors import RequestError
from trivet.domain.scopes import Scope


def line(custom_id: str, **body: Any) -> str:
    """Return a line of a batch."""
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"Hello, {custom_id}"}],
        "max_tokens": 4,
    }
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": asked | body}
    )


def jsonl(lines: Iterable[str]) -> bytes:
    """Return lines as a file."""
    return "".join(each + "\n" for each in lines).encode()


async def submitted(http: httpx.AsyncClient, lines: Iterable[str], **options: str) -> dict[str, Any]:
    """Submit a batch and return it."""
    answer = await http.post("/api/v1/batch", content=jsonl(lines), params=options)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def ended(http: httpx.AsyncClient, batch_id: str, *, within_s: float = 60.0) -> dict[str, Any]:
    """Wait until a batch has ended and return it."""
    async with asyncio.timeout(within_s):
        while True:
            found = (await http.get(f"/api/v1/batch/{batch_id}")).json()
            if found["status"] in ("completed", "cancelled", "expired"):
                return dict(found)
            await asyncio.sleep(0.02)


async def results(http: httpx.AsyncClient, batch_id: str) -> list[dict[str, Any]]:
    """Return the results of a batch."""
    answer = await http.get(f"/api/v1/batch/{batch_id}/results")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jsonl"
    return [json.loads(each) for each in answer.text.splitlines()]


async def test_a_batch_is_answered_line_by_line(house: House) -> None:
    """Results come in the file's order and in OpenAI's shape; each line is charged to whose batch it is."""
    async with house.http(house.key("batcher")) as http:
        batch = await submitted(http, [line(f"id-{n}", model="light") for n in range(6)], label="nightly")
        assert (batch["status"], batch["counts"]["total"], batch["label"]) == ("queued", 6, "nightly")
        done = await ended(http, batch["id"])
        found = await results(http, batch["id"])
        usage = (await http.get("/api/v1/usage", params={"by": "scope"})).json()["rows"]
    assert done["status"] == "completed"
    assert done["counts"] == {
        "total": 6, "waiting": 0, "in_progress": 0, "completed": 6, "failed": 0, "abandoned": 0
    }  # fmt: skip
    assert done["deployments"]["llamacpp/tiny-light"]["completed"] == 6
    assert [each["custom_id"] for each in found] == [f"id-{n}" for n in range(6)]
    assert {each["error"] for each in found} == {None}
    assert {each["response"]["status_code"] for each in found} == {200}
    assert {each["response"]["body"]["object"] for each in found} == {"chat.completion"}
    tokens = sum(each["response"]["body"]["usage"]["total_tokens"] for each in found)
    assert [(row["requests"], row["prompt_tokens"] + row["completion_tokens"]) for row in usage] == [
        (6, tokens)
    ]


@pytest.fixture(scope="module")
async def turns(
    tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A Trivet whose light and heavy models share memory by quick turns, and whose standard one does not."""
    tiers = {tier: launched(tiny_models, tier) for tier in tiny_models}
    for tier in ("light", "heavy"):
        tiers[tier][0]["swap_group"] = "gpu"
    settings = settings_for(
        tmp_path_factory.mktemp("batch-turns"),
        tiers,
        fleet={"probe_interval_s": 0.2, "swap": {"minimum_residency_s": 0.05, "max_wait_s": 0.3}},
    )
    async with serving(settings) as found:
        yield found


async def test_a_swap_group_changes_once_per_model(turns: House) -> None:
    """Two batches with light and heavy in turn: each model is brought at most once, and all are answered."""
    before = turns.trivet.fleet.swap_counts["gpu"]
    async with turns.http() as http:
        lines = [line(f"id-{n}", model=("light", "heavy", "standard")[n % 3]) for n in range(18)]
        batches = [await submitted(http, lines) for _ in range(2)]
        done = [await ended(http, batch["id"]) for batch in batches]
        models = [each["response"]["body"]["model"] for each in await results(http, batches[0]["id"])]
    assert [each["counts"]["completed"] for each in done] == [18, 18]
    assert models == ["tiny-light", "tiny-heavy", "tiny-standard"] * 6
    # Light was there at the start: one change to heavy; were the second batch late, one more each.
    assert turns.trivet.fleet.swap_counts["gpu"] - before <= 2


@pytest.fixture(scope="module")
async def desk(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A Trivet in front of an engine that answers at once."""
    engine = programs.start("tests.doubles.counting_engine", "--delay-ms", "5").url
    async with serving(settings_for(tmp_path_factory.mktemp("desk"), counted(engine))) as found:
        yield found


def counted(engine: str) -> dict[str, list[dict[str, Any]]]:
    """Return deployments of the counting engine, one per tier."""
    return {
        tier: [{"model": f"openai/{tier}", "url": f"{engine}/v1", "context_tokens": 4096, "slots": 8}]
        for tier in ("light", "standard", "heavy")
    }


async def test_a_limited_tenant_waits_and_is_served(desk: House) -> None:
    """Lines beyond a rate or behind others' holds wait; none fails, and nobody else waits for them."""
    async with desk.http() as http:
        limit = {"concurrent": 1}
        assert (await http.put("/api/v1/rate-limits/narrow", json=limit)).status_code == 200
    async with desk.http(desk.key("narrow")) as http:
        batch = await submitted(http, [line(f"id-{n}", model="light") for n in range(6)])
        done = await ended(http, batch["id"])
    assert (done["counts"]["completed"], done["counts"]["failed"]) == (6, 0)


async def test_a_spent_budget_fails_what_cannot_wait(desk: House) -> None:
    """A budget that is emptied after the batch's time: the lines fail as they would have, and say so."""
    async with desk.http() as http:
        await http.put("/api/v1/budgets/spent", json={"daily": 0, "monthly": 0})
    async with desk.http(desk.key("spent")) as http:
        batch = await submitted(http, [line("a", model="light")], window_hours="0.001")
        done = await ended(http, batch["id"])
        (found,) = await results(http, batch["id"])
    assert done["status"] in ("completed", "expired")
    error = found["error"] or found["response"]["body"]["error"]
    assert error["code"] in ("request_too_large", "budget_exhausted", "batch_expired")


async def test_a_line_that_nobody_can_serve_fails_alone(desk: House) -> None:
    """It has the answer that it would have had by itself; the others are answered."""
    async with desk.http(desk.key("mixed")) as http:
        long = line("long", model="light", messages=[{"role": "user", "content": "long 1 " * 20_000}])
        batch = await submitted(http, [line("a", model="light"), long, line("b", model="light")])
        done = await ended(http, batch["id"])
        found = await results(http, batch["id"])
    assert (done["status"], done["counts"]["completed"], done["counts"]["failed"]) == ("completed", 2, 1)
    assert [each["response"]["status_code"] for each in found] == [200, 400, 200]
    assert found[1]["response"]["body"]["error"]["code"] == "context_length_exceeded"


async def test_lines_for_other_routes(desk: House) -> None:
    """A completion is answered as one; vectors, which no model of this Trivet makes, fail their line."""
    asked = {
        "/v1/completions": {"model": "light", "prompt": "desk 1", "max_tokens": 4},
        "/v1/embeddings": {"model": "light", "input": "desk 1"},
    }
    lines = [json.dumps({"custom_id": url, "url": url, "body": body}) for url, body in asked.items()]
    async with desk.http(desk.key("others")) as http:
        batch = await submitted(http, lines)
        await ended(http, batch["id"])
        found = await results(http, batch["id"])
    assert [each["response"]["status_code"] for each in found][1] == 400
    assert found[1]["response"]["body"]["error"]["code"] == "no_candidate"


async def test_cancelling_gives_up_what_has_not_begun(desk: House) -> None:
    """Every line has an end: answered if it ran, else abandoned; its prompt is gone from the store."""
    async with desk.http(desk.key("leaver")) as http:
        batch = await submitted(http, [line(f"id-{n}", model="heavy") for n in range(200)])
        cancelled = await http.delete(f"/api/v1/batch/{batch['id']}")
        assert cancelled.status_code == 200
        done = await ended(http, batch["id"])
        found = await results(http, batch["id"])
    assert done["status"] == "cancelled"
    assert done["counts"]["abandoned"] > 0
    assert done["counts"]["abandoned"] + done["counts"]["completed"] + done["counts"]["failed"] == 200
    assert len(found) == 200
    assert {e["error"]["code"] for e in found if e["response"] is None} == {"batch_cancelled"}
    assert await bodies_of(desk, batch["id"]) == 0


async def test_from_python(desk: House) -> None:
    """Submit, wait with progress, read the results; a fault names its line."""
    asked = [{"custom_id": f"id-{n}", "body": json.loads(line(f"id-{n}"))["body"]} for n in range(5)]
    seen: list[int] = []
    async with Trivet.connect(desk.url, api_key=desk.key("python")) as trivet:
        batch, again = [
            await trivet.batches.submit(asked, label="from python", window_hours=1, idempotency_key="nightly")
            for _ in range(2)
        ]
        done = await trivet.batches.wait(
            batch["id"], poll_s=0.05, on_progress=lambda b: seen.append(b["counts"]["completed"])
        )
        found = [each async for each in trivet.batches.results(batch["id"])]
        with pytest.raises(RequestError, match="Line 2: custom_id") as refused:
            await trivet.batches.submit([asked[0], asked[0]])
        ended_already = await trivet.batches.cancel(batch["id"])
        listed = await trivet.batches.list()
    assert (done["status"], done["label"], seen[-1]) == ("completed", "from python", 5)
    assert [each["custom_id"] for each in found] == [f"id-{n}" for n in range(5)]
    assert refused.value.details["line"] == 2
    assert ended_already["status"] == "completed"
    assert [each["id"] for each in listed] == [batch["id"]] == [again["id"]]


async def test_from_the_command_line(desk: House, tmp_path: Path) -> None:
    """`submit --wait` ends with the batch and tells by its status whether all lines were answered."""
    mixed = tmp_path / "mixed.jsonl"
    long = line("long", messages=[{"role": "user", "content": "long 1 " * 20_000}])
    mixed.write_bytes(jsonl([line("a"), long]))
    answers = tmp_path / "answers.jsonl"
    where = {"TRIVET_URL": desk.url, "TRIVET_API_KEY": desk.key("shell")}

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(lambda: trivet_command(*arguments, environ=where))

    done = await run("batch", "submit", str(mixed), "--wait", "--json")
    batch = json.loads(done.stdout)
    assert (done.returncode, batch["status"], batch["counts"]["failed"]) == (1, "completed", 1), done.stderr
    written = await run("batch", "results", batch["id"], "-o", str(answers))
    assert written.stderr.strip() == f"2 results in {answers}."
    assert [json.loads(each)["custom_id"] for each in answers.read_text().splitlines()] == ["a", "long"]


async def bodies_of(desk: House, batch_id: str) -> int:
    """Return how many prompts of a batch the store still holds."""
    store = desk.trivet.settings.store.path

    def count() -> int:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
            query = "SELECT count(*) FROM batch_lines WHERE batch_id = ? AND body IS NOT NULL"
            return int(database.execute(query, (batch_id,)).fetchone()[0])

    return await asyncio.to_thread(count)


async def test_a_revoked_key_ends_its_batch(desk: House) -> None:
    """What a key ordered runs as its requests: once it works no more, none begins."""
    text, record = desk.trivet.keyring.create(Scope("revoked"))
    async with desk.http(text) as http:
        batch = await submitted(http, [line(f"id-{n}", model="heavy") for n in range(200)])
    desk.trivet.keyring.revoke(record.key_id)
    async with desk.http(desk.key("revoked")) as http:
        done = await ended(http, batch["id"])
        found = await results(http, batch["id"])
    assert done["counts"]["failed"] > 0
    assert found[-1]["response"]["body"]["error"]["code"] == "invalid_api_key"


async def test_a_killed_server_goes_on_where_it_was(programs: Programs, tmp_path: Path) -> None:
    """After kill -9 and a new start every line has one result, and no answer that was charged is lost."""
    engine = programs.start("tests.doubles.counting_engine", "--delay-ms", "20").url
    settings = settings_for(tmp_path, counted(engine))
    config, store, log = tmp_path / "trivet.yaml", tmp_path / "trivet.db", tmp_path / "serve.log"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    with server_process(config, store, log) as server:
        async with client_of(server) as http:
            batch = await submitted(http, [line(f"id-{n}", model="heavy") for n in range(40)])
            async with asyncio.timeout(60):
                while (await http.get(f"/api/v1/batch/{batch['id']}")).json()["counts"]["completed"] < 5:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)
            server.process.kill()
            server.process.wait()
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
        answered = database.execute("SELECT count(*) FROM outcomes WHERE status = 'ok'").fetchone()[0]
        kept = database.execute("SELECT count(*) FROM batch_lines WHERE state = 'completed'").fetchone()[0]
    assert 5 <= kept == answered < 40
    with server_process(config, store, log) as server:
        async with client_of(server) as http:
            done = await ended(http, batch["id"])
            found = await results(http, batch["id"])
            proof = (await http.post("/api/v1/ledger/verify")).json()
    assert (done["status"], done["counts"]["completed"]) == ("completed", 40)
    assert [each["custom_id"] for each in found] == [f"id-{n}" for n in range(40)]
    assert (proof["ok"], proof["differences"]) == (True, [])


def client_of(server: ServerProcess) -> httpx.AsyncClient:
    """Return a client of the owner's."""
    return httpx.AsyncClient(base_url=server.url, headers=server.owner, trust_env=False, timeout=30)


async def test_replicas_share_the_work(programs: Programs, postgres_url: str, tmp_path: Path) -> None:
    """On one store each batch is one replica's; either shows and cancels what the other works off."""
    quick = programs.start("tests.doubles.counting_engine", "--delay-ms", "20").url
    # What is to be cancelled cannot end before, however slow the machine.
    slow = programs.start("tests.doubles.counting_engine", "--delay-ms", "400").url
    deployments = counted(quick) | {"heavy": counted(slow)["heavy"]}
    shared = {"access": {"pepper": "a pepper for tests"}, "batch": {"concurrency": 2}}

    def replica(name: str) -> Settings:
        store = {"url": postgres_url, "path": tmp_path / name / "trivet.db"}
        return settings_for(tmp_path / name, deployments, **shared, store=store)

    async with (
        serving(replica("one")) as one,
        serving(replica("two")) as two,
        # The second replica may claim what was ordered with a key that it has not heard of yet.
        one.http(one.key("acme")) as here,
        two.http(two.trivet.owner_token) as there,
    ):
        there.headers["x-trivet-scope"] = "acme"
        long = await submitted(here, [line(f"id-{n}", model="heavy") for n in range(400)])
        short = await submitted(there, [line(f"id-{n}", model="light") for n in range(6)])
        done = await ended(here, short["id"])
        cancelled = await there.delete(f"/api/v1/batch/{long['id']}")
        given_up = await ended(there, long["id"])
        found = await results(here, short["id"])
    assert (done["status"], done["counts"]["completed"]) == ("completed", 6)
    assert [each["custom_id"] for each in found] == [f"id-{n}" for n in range(6)]
    assert (cancelled.status_code, given_up["status"]) == (200, "cancelled")
    counts = given_up["counts"]
    assert counts["abandoned"] > 0, given_up
    assert counts["abandoned"] + counts["completed"] + counts["failed"] == 400
