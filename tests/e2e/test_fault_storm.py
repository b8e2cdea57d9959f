"""The storm of faults in small, and a judge that sees what it is there for."""

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.counts import scaled
from tests.e2e.conftest import serving, settings_for
from tests.proofs.fault_clients import AFTER, BEFORE, ENGINES, WORDS, Ask, Sight, judge
from tests.proofs.fault_storm import Plan, figures_of, is_clean, judged, sent, tiers_of


async def test_storm_of_faults(fault_server: str, tmp_path: Path) -> None:
    """Nothing stays held, no cut answer passes for a whole one, and whoever could be served was."""
    plan = Plan(requests=scaled(300), clients=48, seed=7, fault_rate=0.15, silence=False)
    tiers = tiers_of([fault_server] * 3, plan.transport)
    settings = settings_for(tmp_path, {tier["name"]: tier["deployments"] for tier in tiers})
    async with serving(settings) as house:
        token = house.trivet.owner_token
        sight = await sent(plan, house.url, token)
        books = await asyncio.to_thread(judged, house.url, token, settings.store.path)
    figures = figures_of(plan, sight, books, 0.0)
    assert is_clean(figures), json.dumps(figures, indent=1)
    ended = sight.left + sight.ok + sight.honest_cuts + sum(sight.honest_failures.values())
    assert (sight.requests, ended) == (plan.requests, plan.requests)
    assert sight.fallbacks > 0
    assert sight.honest_cuts > 0


def chunk(text: str, finish: str | None = None) -> bytes:
    """Return one event of a stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def asked(fault: str, *, stream: bool = True) -> Ask:
    """Return a request that the light engine is told to fail, and the others are not."""
    return Ask(stream=stream, leaves=False, faults=dict.fromkeys(ENGINES, "ok") | {ENGINES[0]: fault})


ERROR = b'data: {"error": {"code": "upstream_incomplete"}}\n\n'
DONE = b"data: [DONE]\n\n"
LIGHT, HEAVY = f"light/{ENGINES[0]}:ok", f"light/{ENGINES[0]}:error, heavy/{ENGINES[2]}:ok"


@pytest.mark.parametrize(
    ("ask", "raw", "path", "seen"),
    [
        (asked("cut"), chunk("alpha ") + ERROR, LIGHT, "honest_cuts"),
        (asked("cut"), chunk("alpha ") + DONE, LIGHT, "cut_streams_ended_as_success"),
        (asked("cut"), chunk("alpha ", "stop") + DONE, LIGHT, "cut_streams_ended_as_success"),
        (asked("cut"), chunk("alpha "), LIGHT, "cut_streams_ended_as_success"),
        (asked("500"), chunk("alpha ") + ERROR, HEAVY, "client_failures_with_healthy_candidate"),
        (asked("500"), chunk(WORDS, "stop") + DONE, HEAVY, "ok"),
        (asked("cut"), chunk("alpha ") + chunk(WORDS, "stop") + DONE, LIGHT, "cut_streams_ended_as_success"),
    ],
)
def test_the_judge_sees(ask: Ask, raw: bytes, path: str, seen: str) -> None:
    """A cut that says so is honest; one that ends as a success, or is spliced, is not."""
    sight = Sight()
    judge(ask, 200, raw, path, sight)
    assert getattr(sight, seen) == 1


def test_the_judge_knows_who_could_be_served() -> None:
    """A refusal is honest only if every engine was told to fail before its content."""
    refusal = json.dumps({"error": {"code": "upstream_error"}}).encode()
    sight = Sight()
    judge(asked("500"), 502, refusal, "", sight)
    assert sight.client_failures_with_healthy_candidate == 1
    judge(Ask(stream=True, leaves=False, faults=dict.fromkeys(ENGINES, "500")), 502, refusal, "", sight)
    assert sight.honest_failures == {"502 upstream_error": 1}
    judge(Ask(stream=True, leaves=False, faults=dict.fromkeys(ENGINES, "cut")), 502, refusal, "", sight)
    assert sight.client_failures_with_healthy_candidate == 2


def test_every_fault_is_in_the_storm() -> None:
    """Ten thousand requests meet each kind of fault, at the first engine, many times."""
    dice = random.Random(1)
    met = {ask.faults[ENGINES[0]] for ask in (Ask.made(dice, 0.05) for _ in range(10_000))}
    assert {*BEFORE, *AFTER} <= met
