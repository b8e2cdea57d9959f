"""Two whole Trivets on one PostgreSQL store."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ENDLESS, WEIGHTS, House, serving, settings_for
from trivet.config.settings import Settings
from trivet.domain.scopes import Scope
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.lab.scratch_redis import ScratchRedis
from trivet.sdk.client import Trivet

MESSAGES = [{"role": "user", "content": "Hello"}]
PEPPER = "a pepper that replicas share"


def replica(directory: Path, url: str, engine: str, **sections: Any) -> Settings:
    """Return the settings of a replica with files of its own, in front of an engine that all share."""
    deployments = {
        tier: [{"name": f"tiny-{tier}", "model": "llamacpp/tiny-light", "url": engine}] for tier in WEIGHTS
    }
    return settings_for(
        directory,
        deployments,
        store={"path": directory / "trivet.db", "url": url},
        access={"pepper": PEPPER},
        **sections,
    )


async def known(house: House, key: str) -> None:
    """Wait until a replica knows a key that another one made."""
    async with house.http(key) as http:
        for _ in range(200):
            if (await http.get("/v1/models")).status_code == 200:
                return
            await asyncio.sleep(0.05)
    raise AssertionError("the key did not become known")


async def unknown(house: House, key: str) -> None:
    """Wait until a replica refuses a key that another one revoked."""
    async with house.http(key) as http:
        for _ in range(200):
            if (await http.get("/v1/models")).status_code == 401:
                return
            await asyncio.sleep(0.05)
    raise AssertionError("the key is still taken")


async def readiness(http: httpx.AsyncClient, status: int) -> dict[str, Any]:
    """Return what the probe tells once it answers with a status."""
    for _ in range(400):
        told = await http.get("/readyz")
        if told.status_code == status:
            return dict(told.json())
        await asyncio.sleep(0.025)
    raise AssertionError(f"it never became {status}")


async def test_one_budget_over_two_replicas(postgres_url: str, light_url: str, tmp_path: Path) -> None:
    """Keys, limits, budgets, records are common; together they overspend nothing and hold nothing after."""
    limit = 2_000
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        serving(replica(tmp_path / "a", postgres_url, light_url)) as first,
        serving(replica(tmp_path / "b", postgres_url, light_url)) as second,
    ):
        key = first.key("crowd.team.user")
        await known(second, key)
        async with second.http() as admin:
            await admin.put("/api/v1/budgets/crowd.team", json={"daily": limit})

        async def ask(number: int, http: httpx.AsyncClient) -> int:
            body = {"model": "light", "messages": MESSAGES, "max_tokens": 24, "stream": number % 2 == 0}
            return (await http.post("/v1/chat/completions", json=body)).status_code

        async with first.http(key) as here, second.http(key) as there:
            statuses = await asyncio.gather(*(ask(n, (here, there)[n // 2 % 2]) for n in range(64)))
        assert set(statuses) <= {200, 429}
        assert {200, 429} <= set(statuses)
        rows = {(row.scope, row.window): row for row in first.trivet.ledger.rows()}
        team = rows[Scope("crowd.team"), "daily"]
        assert (team.held, team.limit) == (0, limit)
        assert 0 < team.used <= limit
        assert second.trivet.ledger.verify().differences == ()
        async with second.http() as admin:
            usage = (await admin.get("/api/v1/usage", params={"by": "scope"})).json()
        assert sum(row["ok"] for row in usage["rows"]) == statuses.count(200)
        (record,) = (one for one in first.trivet.keyring.records() if one.scope == "crowd.team.user")
        first.trivet.keyring.revoke(record.key_id)
        await unknown(second, key)


async def test_a_command_beside_a_running_replica(postgres_url: str, light_url: str, tmp_path: Path) -> None:
    """Without engines the store is opened beside whoever serves; no lock is in the way."""
    settings = replica(tmp_path, postgres_url, light_url)
    async with serving(settings) as house, Trivet.open(settings=settings, with_engines=False) as trivet:
        assert house.trivet.lock is not None
        status = await trivet.budget_status("acme")
    assert status["status"] == "ok"


async def test_a_store_that_goes_away(light_url: str, tmp_path: Path) -> None:
    """While the database is gone nothing passes unmetered, probes say so; when it is back all is served."""
    body = {"model": "light", "messages": MESSAGES, "max_tokens": 8}
    with ScratchPostgres(durable=False) as database:
        async with serving(replica(tmp_path, database.url(), light_url)) as house:
            async with house.http(house.key("acme")) as http:
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
                assert (await http.get("/readyz")).json()["store"] == "ready"
                database.kill()
                told = await readiness(http, 503)
                assert (told["status"], told["store"]) == ("not_ready", "unavailable")
                assert "store" in told["reason"]
                refused = await http.post("/v1/chat/completions", json=body)
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "budget_store_unavailable"
                assert str(database.port) not in refused.text
                await asyncio.to_thread(database.start)
                assert (await readiness(http, 200))["store"] == "ready"
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
            assert {row.held for row in house.trivet.ledger.rows()} == {0}
            assert house.trivet.ledger.verify().differences == ()


def test_a_shared_store_needs_a_pepper(tmp_path: Path) -> None:
    """Else every replica would make its own, and know none of the others' keys."""
    with pytest.raises(ValueError, match=r"access\.pepper"):
        Settings.model_validate({"store": {"url": "postgresql://h/d"}})
    with pytest.raises(ValueError, match="postgresql://"):
        Settings.model_validate({"store": {"url": "mysql://h/d"}, "access": {"pepper": PEPPER}})
    shown = Settings.model_validate(
        {"store": {"url": "postgresql://u:hunter2@h/d"}, "access": {"pepper": PEPPER}}
    )
    assert "hunter2" not in repr(shown)


@pytest.fixture
def guarded_redis() -> Iterator[ScratchRedis]:
    """A Redis of this test's own, with a password."""
    with ScratchRedis(password="secret") as server:
        yield server


async def test_rates_and_answers_are_shared_in_redis(
    postgres_url: str, light_url: str, tmp_path: Path, guarded_redis: ScratchRedis
) -> None:
    """Two replicas count one rate and give one another's answers; Redis gone, both serve as if alone."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    shared = {
        "redis": {"url": guarded_redis.url, "timeout_s": 2.0},
        "cache": {"enabled": True, "store": "redis"},
    }
    body = {"model": "light", "messages": MESSAGES, "max_tokens": 4, "temperature": 0, **ENDLESS}
    async with (
        serving(replica(tmp_path / "a", postgres_url, light_url, **shared)) as first,
        serving(replica(tmp_path / "b", postgres_url, light_url, **shared)) as second,
    ):
        key = first.key("crowd.team")
        await known(second, key)

        async def ask(house: House) -> httpx.Response:
            async with house.http(key) as http:
                answer = await http.post("/v1/chat/completions", json=body)
            assert house.trivet.cache is not None
            await house.trivet.cache.settled()
            return answer

        assert (await ask(first)).headers["x-trivet-cache"] == "miss"
        assert (await ask(second)).headers["x-trivet-cache"] == "hit"
        async with second.http() as admin:
            await admin.put("/api/v1/rate-limits/crowd", json={"requests_per_minute": 2})
            for _ in range(200):
                if (await ask(first)).headers.get("x-ratelimit-limit-requests"):
                    break
                await asyncio.sleep(0.05)
            assert (await ask(second)).status_code == 200
            refused = await ask(first)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            guarded_redis.kill()
            alone = await ask(second)
            assert (alone.status_code, alone.headers["x-trivet-cache"]) == (200, "miss")
            metrics = (await admin.get("/metrics")).text
            assert "trivet_redis_up 0.0" in metrics
            assert (await admin.get("/api/v1/cache")).status_code == 503
