"""The response cache on the wire: real engines answer, the unmodified openai client asks."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from tests.e2e.conftest import ENDLESS, WEIGHTS, House, serving, settings_for
from tests.e2e.test_batch import ended, line, results, submitted
from trivet import Trivet
from trivet.cli.main import app
from trivet.config.cache_settings import CacheSettings
from trivet.config.settings import Settings

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def settings_at(directory: Path, light_url: str, **cache: Any) -> Settings:
    """Return settings of three tiers on one real engine, with the cache on."""
    deployments = {
        tier: [{"model": "llamacpp/tiny-light", "name": f"{tier}-model", "url": light_url}]
        for tier in WEIGHTS
    }
    return settings_for(directory, deployments, cache={"enabled": True, **cache})


@pytest.fixture(scope="module")
async def caching(light_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A Trivet that keeps answers."""
    directory = tmp_path_factory.mktemp("caching")
    async with serving(settings_at(directory, light_url, mode="similar")) as house:
        yield house


def question(text: str, **more: Any) -> dict[str, Any]:
    """Return a body that may be kept."""
    messages = [{"role": "user", "content": text}]
    return {"model": "light", "messages": messages, "max_tokens": 12, "temperature": 0, **ENDLESS, **more}


async def ask(
    house: House, key: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> httpx.Response:
    """Send a chat request, and wait until what is to be kept of it is."""
    async with house.http(key) as http:
        answer = await http.post("/v1/chat/completions", json=body, headers=headers)
    cache = house.trivet.cache
    assert cache is not None
    await cache.settled()
    assert (cache.tally.failed, cache.tally.not_kept) == (0, 0)
    return answer


def told(answer: httpx.Response) -> str | None:
    """Return what an answer says of the cache."""
    state = answer.headers.get("x-trivet-cache")
    return None if state is None else str(state)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the documents of a streamed answer."""
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def text_of(documents: list[dict[str, Any]]) -> str:
    """Return the text that a stream's chunks make."""
    return "".join(c["delta"].get("content") or "" for d in documents for c in d["choices"])


async def test_the_same_request_is_answered_again_for_nothing(caching: House) -> None:
    """The text is the same, the id is not; no engine is asked, nothing is charged."""
    key = caching.key("free.team")
    body = question("Tell me a story of a trivet")
    first = await ask(caching, key, body)
    used = caching.trivet.ledger.status("free").rows[0].used  # type: ignore[arg-type]
    again = await ask(caching, key, body)
    assert (first.status_code, told(first), again.status_code, told(again)) == (200, "miss", 200, "hit")
    assert again.headers["x-trivet-attempts"] == "0"
    assert "x-trivet-attempt-path" not in again.headers
    assert "x-trivet-budget-remaining" not in again.headers
    assert again.json()["choices"] == first.json()["choices"]
    assert again.json()["usage"] == first.json()["usage"]
    assert again.json()["id"] != first.json()["id"]
    assert used > 0
    assert caching.trivet.ledger.status("free").rows[0].used == used  # type: ignore[arg-type]


@pytest.mark.parametrize("kept_as_stream", [False, True])
async def test_a_kept_answer_is_told_whole_and_as_a_stream(caching: House, kept_as_stream: bool) -> None:
    """However it was made: chunks of the engine's own shape, usage if asked for, `[DONE]` at the end."""
    key = caching.key("shape")
    body = question(f"Count some words {kept_as_stream}")
    streamed = {**body, "stream": True}
    original = await ask(caching, key, streamed if kept_as_stream else body)
    assert told(original) == "miss"
    whole, stream = await ask(caching, key, body), await ask(caching, key, streamed)
    with_usage = await ask(caching, key, {**streamed, "stream_options": {"include_usage": True}})
    assert [told(answer) for answer in (whole, stream, with_usage)] == ["hit"] * 3
    choice = whole.json()["choices"][0]
    assert text_of(events(stream)) == text_of(events(with_usage)) == choice["message"]["content"]
    assert events(stream)[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert [event for event in events(stream) if not event["choices"]] == []
    assert events(with_usage)[-1]["usage"] == whole.json()["usage"]
    assert stream.text.endswith("data: [DONE]\n\n")
    fresh = events(await ask(caching, key, streamed, {"x-trivet-cache": "refresh"}))
    shapes = [{(e["object"], *sorted(e["choices"][0])) for e in found} for found in (events(stream), fresh)]
    assert {name for _, *names in shapes[1] for name in names} <= {name for _, *n in shapes[0] for name in n}
    assert {kind for kind, *_ in shapes[0]} == {kind for kind, *_ in shapes[1]} == {"chat.completion.chunk"}


async def test_the_library_takes_a_kept_answer(caching: House) -> None:
    """Nothing is charged for it, so there is nothing of a budget to tell."""
    async with Trivet.connect(caching.url, api_key=caching.key("library")) as trivet:
        first = await trivet.complete("A library's question", max_tokens=8, temperature=0)
        cache = caching.trivet.cache
        assert cache is not None
        await cache.settled()
        second = await trivet.complete("A library's question", max_tokens=8, temperature=0)
    assert (first.facts.cache, second.facts.cache) == ("miss", "hit")
    assert (second.text, second.facts.budget_remaining) == (first.text, None)


async def test_the_openai_client_takes_a_kept_stream(caching: House) -> None:
    """Unmodified, with its own checks of each chunk."""
    key = caching.key("client")
    async with openai.AsyncOpenAI(base_url=f"{caching.url}/v1", api_key=key, max_retries=0) as client:
        arguments: dict[str, Any] = question("Say something, client")
        plain = await client.chat.completions.create(**arguments)
        assert caching.trivet.cache is not None
        await caching.trivet.cache.settled()
        stream = await client.chat.completions.create(**arguments, stream=True)
        assert stream.response.headers["x-trivet-cache"] == "hit"
        chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == plain.choices[0].message.content


async def test_tenants_never_share_answers(caching: House) -> None:
    """The same words of another organisation are a miss; those of a colleague are not."""
    body = question("What is our common secret?")
    assert told(await ask(caching, caching.key("acme.search.ana"), body)) == "miss"
    assert told(await ask(caching, caching.key("globex"), body)) == "miss"
    assert told(await ask(caching, caching.key("acme-search"), body)) == "miss"
    assert told(await ask(caching, caching.key("acme.sales.bob"), body)) == "hit"


async def test_only_what_says_the_same_is_like_it(caching: House) -> None:
    """Courtesies and case may differ and are told of; a number, a negation, a name or the frame may not."""
    key = caching.key("like")
    await ask(caching, key, question("What is the limit of 80 users in Paris?"))
    alike = await ask(caching, key, question("Please, what's the limit of 80 users in paris"))
    assert (told(alike), float(alike.headers["x-trivet-cache-likeness"]) < 1) == ("hit", True)
    others = [
        question("What is the limit of 90 users in Paris?"),
        question("What is not the limit of 80 users in Paris?"),
        question("What is the limit of 80 users in London?"),
        question("What is the limit of 80 users in Paris?", max_tokens=11),
        question("What is the limit of 80 users in Paris?", top_p=0.5),
        question("What is the limit of 80 users in Paris?", model="heavy"),
    ]
    assert [told(await ask(caching, key, body)) for body in others] == ["miss"] * len(others)
    system = {"role": "system", "content": "Be brief."}
    framed = question("What is the limit of 80 users in Paris?")
    framed["messages"].insert(0, system)
    assert told(await ask(caching, key, framed)) == "miss"


async def test_what_may_not_be_kept_passes_by(caching: House) -> None:
    """Tools, several choices, log-probabilities, another temperature, the caller's own word."""
    key = caching.key("rules")
    body = question("May this be kept?")
    passing = [
        ({**body, "tools": [TOOL]}, {}),
        ({**body, "n": 2}, {}),
        ({**body, "logprobs": True}, {}),
        ({**body, "temperature": 0.7}, {}),
        ({name: value for name, value in body.items() if name != "temperature"}, {}),
        (body, {"x-trivet-cache": "no-store"}),
        (body, {"cache-control": "no-store"}),
    ]
    for sent, headers in passing:
        assert [told(await ask(caching, key, sent, headers)) for _ in range(2)] == ["bypass"] * 2
    async with caching.http(key) as http:
        plain = await http.post("/v1/completions", json={"model": "light", "prompt": "a", "max_tokens": 2})
    assert (plain.status_code, told(plain)) == (200, "bypass")
    warm = {**body, "temperature": 0.7}
    allowed = {"x-trivet-cache": "allow"}
    assert [told(await ask(caching, key, warm, allowed)) for _ in range(2)] == ["miss", "hit"]
    assert told(await ask(caching, key, body)) == "miss"
    assert told(await ask(caching, key, body, {"cache-control": "no-cache"})) == "miss"
    wrong = await ask(caching, key, body, {"x-trivet-cache": "maybe"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-trivet-cache")


async def test_an_exhausted_budget_still_gets_what_is_kept(caching: House) -> None:
    """It costs nothing, so there is nothing to refuse; permissions and rates count all the same."""
    key = caching.key("poor")
    body = question("What may the poor have?")
    assert told(await ask(caching, key, body)) == "miss"
    async with caching.http() as http:
        await http.put("/api/v1/budgets/poor", json={"daily": 1})
    assert (await ask(caching, key, question("What else?"))).json()["error"]["code"] == "request_too_large"
    assert told(await ask(caching, key, body)) == "hit"
    bound = caching.key("poor", tiers=("heavy",))
    assert (await ask(caching, bound, body)).status_code == 403
    async with caching.http() as http:
        await http.put("/api/v1/rate-limits/poor", json={"requests_per_minute": 0})
    assert (await ask(caching, key, body)).json()["error"]["code"] == "rate_limit_exceeded"


async def test_hits_are_on_record(caching: House) -> None:
    """In the usage, beside the savings, in the metrics, in the cache's own figures; a tenant sees its own."""
    key = caching.key("books")
    for _ in range(3):
        await ask(caching, key, question("What is on record?"))
    async with caching.http() as http:
        for _ in range(200):
            usage = await usage_of(caching, "books")
            if usage and usage[0]["requests"] == 3:
                break
            await asyncio.sleep(0.02)
        savings = (await http.get("/api/v1/savings?scope=books")).json()
        metrics = (await http.get("/metrics")).text
        everything = (await http.get("/api/v1/cache")).json()
    async with caching.http(key) as http:
        own = (await http.get("/api/v1/cache")).json()
        assert (await http.get("/api/v1/cache?scope=free")).status_code == 404
        assert (await http.delete("/api/v1/cache?scope=books")).status_code == 403
    assert (usage[0]["ok"], usage[0]["cached"]) == (3, 2)
    assert savings["cached_requests"] == 2
    assert savings["cached"] == pytest.approx(own["saved_device_s"], abs=1e-5)
    assert own["saved_device_s"] > 0
    assert (own["scope"], own["entries"], own["hits"], own["since_start"]) == ("books", 1, 2, None)
    assert everything["since_start"]["hits"] >= 2
    assert 'trivet_cache_lookups{result="hit"}' in metrics


async def test_answers_outlive_a_restart_and_end_when_cleared(light_url: str, tmp_path: Path) -> None:
    """They lie in a file of their owner's alone, in which no prompt is found; `DELETE` removes a scope's.

    Once the cache is off, `DELETE` removes the file.
    """
    settings, body = settings_at(tmp_path, light_url), question("Remember xyzzyplugh")
    async with serving(settings) as house:
        key, other = house.key("acme.search"), house.key("globex")
        assert told(await ask(house, key, body)) == told(await ask(house, other, body)) == "miss"
    path = tmp_path / "trivet.db.cache"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"xyzzyplugh" not in path.read_bytes()
    async with serving(settings) as house:
        assert told(await ask(house, key, body)) == told(await ask(house, other, body)) == "hit"
        async with house.http() as http:
            assert (await http.delete("/api/v1/cache?scope=acme")).json() == {"scope": "acme", "removed": 1}
        assert (told(await ask(house, key, body)), told(await ask(house, other, body))) == ("miss", "hit")
    async with serving(settings.model_copy(update={"cache": CacheSettings()})) as house:
        async with house.http(key) as http:
            assert (await http.delete("/api/v1/cache")).status_code == 403
        async with house.http() as http:
            facts = (await http.get("/api/v1/cache")).json()
            removed = [(await http.delete("/api/v1/cache")).json()["removed"] for _ in range(2)]
    assert (facts["enabled"], facts["entries"], removed) == (False, 0, [2, 0])
    assert not path.exists()


async def test_a_batch_is_answered_from_what_is_kept(caching: House) -> None:
    """Its lines are kept and given again like any other request, with a result for each."""
    key = caching.key("batched")
    body = question("What is in the batch?")
    assert told(await ask(caching, key, body)) == "miss"
    lines = [line(f"{number}", **body) for number in range(3)]
    async with caching.http(key) as http:
        batch = await submitted(http, lines)
        assert (await ended(http, batch["id"]))["status"] == "completed"
        found = await results(http, batch["id"])
    assert [each["response"]["status_code"] for each in found] == [200] * 3
    texts = {each["response"]["body"]["choices"][0]["message"]["content"] for each in found}
    assert len(texts) == 1
    usage = await usage_of(caching, "batched")
    assert (usage[0]["requests"], usage[0]["cached"]) == (4, 3)


async def test_the_command_shows_and_clears(caching: House) -> None:
    """`trivet cache stats` and `clear`, of one scope, as JSON and in words."""
    key = caching.key("commanded")
    for _ in range(2):
        await ask(caching, key, question("What does the command say?"))
    own = ("--url", caching.url, "--api-key", caching.trivet.owner_token, "--scope", "commanded")

    async def run(*arguments: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, app, ["cache", *arguments])

    stats = json.loads((await run("stats", *own, "--json")).stdout)
    assert (stats["enabled"], stats["entries"], stats["hits"]) == (True, 1, 1)
    words = await run("stats", *own)
    assert (words.exit_code, "since the start: misses" in words.stdout) == (0, True)
    assert json.loads((await run("clear", *own, "--json")).stdout) == {"scope": "commanded", "removed": 1}
    assert "Removed 0 kept answers." in (await run("clear", *own)).output


async def test_what_broke_off_is_not_kept(caching: House) -> None:
    """A client that leaves amid its stream leaves half an answer, which nobody else is given."""
    key = caching.key("leaving")
    body = question("Will you wait for the end?", max_tokens=200)
    async with (
        caching.http(key) as http,
        http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                break
    for _ in range(200):
        usage = await usage_of(caching, "leaving")
        if usage and usage[0]["cancelled"] + usage[0]["ok"] == 1:
            break
        await asyncio.sleep(0.02)
    if usage[0]["cancelled"]:  # else the engine was quicker than the client's leaving
        assert told(await ask(caching, key, body)) == "miss"
    assert told(await ask(caching, key, body)) == "hit"


async def usage_of(house: House, scope: str) -> list[dict[str, Any]]:
    """Return the usage of a scope."""
    async with house.http() as http:
        rows: list[dict[str, Any]] = (await http.get(f"/api/v1/usage?scope={scope}")).json()["rows"]
    return rows


async def test_off_means_silent(house: House) -> None:
    """Without the cache no header speaks of it, whatever the caller says."""
    answer = await ask_plainly(house, question("Is it off?"))
    assert (answer.status_code, told(answer), house.trivet.cache) == (200, None, None)


async def ask_plainly(house: House, body: dict[str, Any]) -> httpx.Response:
    """Send a chat request as the owner, who allows keeping."""
    async with house.http() as http:
        return await http.post("/v1/chat/completions", json=body, headers={"x-trivet-cache": "allow"})
