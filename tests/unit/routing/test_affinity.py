"""Affinity: a conversation keeps its endpoint, within bounds of load, and nothing else changes."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.routing.parts import HEAVY, LIGHT, chat, decide, deployment
from trivet.domain.decisions import Offer
from trivet.domain.errors import ModelUnknown
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope

NAMES = ("big#1", "big#2", "big#3", "big#4")


def pool(*in_flight: int, down: str = "") -> list[Offer]:
    """Return LIGHT with one deployment of several endpoints, and HEAVY."""
    made = []
    for index, name in enumerate(NAMES):
        endpoint = replace(deployment(name, LIGHT, model="q", slots=16), endpoint_of="big")
        busy = in_flight[index] if in_flight else 0
        made.append(Offer(endpoint, in_flight=busy, state="down" if name == down else "ready"))
    return [*made, Offer(deployment("dear", HEAVY))]


def turn(number: int, *, first: str = "Hello") -> dict[str, Any]:
    """Return a later turn of a conversation."""
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": first}]
    for index in range(number):
        told += [{"role": "assistant", "content": f"a{index}"}, {"role": "user", "content": f"b{index}"}]
    return {"messages": told, "model": "big"}


def chosen(body: dict[str, Any], offers: list[Offer], **rest: Any) -> str:
    """Return the name of the endpoint that is tried first."""
    return decide(body, offers, **rest).deployment.name


def test_all_turns_of_a_conversation_go_to_one_endpoint() -> None:
    """Whatever follows its first user message; and a session's name alone decides where it is given."""
    assert len({chosen(turn(number), pool()) for number in range(10)}) == 1
    session = {"x-trivet-session": "s1"}
    assert len({chosen(turn(0, first=f"Hi {n}"), pool(), headers=session) for n in range(10)}) == 1


def test_conversations_spread() -> None:
    """Many conversations use all endpoints about evenly."""
    counts = Counter(chosen(turn(0, first=f"Question {number}"), pool()) for number in range(400))
    assert set(counts) == set(NAMES)
    assert max(counts.values()) < 2 * min(counts.values())


def test_one_that_goes_moves_its_own_conversations_only() -> None:
    """Rendezvous: what was elsewhere stays where it was."""
    moved = 0
    for number in range(200):
        body = turn(0, first=f"Question {number}")
        before, after = chosen(body, pool()), chosen(body, pool(down="big#2"))
        assert after != "big#2"
        assert before in (after, "big#2")
        moved += before != after
    assert 20 <= moved <= 90


def test_nobody_gets_more_than_a_quarter_above_its_share() -> None:
    """One conversation that everybody has goes elsewhere while its endpoint is busy."""
    busy = Counter[str]()
    for _ in range(100):
        busy[chosen(turn(0), pool(*(busy[name] for name in NAMES)))] += 1
    assert max(busy.values()) <= 1.25 * 25 + 1


def test_the_decision_shows_it_and_the_terms_add_up() -> None:
    """The one that takes it scores just above the least busy; one endpoint alone has no such term."""
    for number in range(20):
        decision = decide(turn(0, first=f"Question {number}"), pool(3, 2, 3, 3))
        scores = [candidate.score for candidate in decision.candidates]
        assert scores == sorted(scores, reverse=True)
        for candidate in decision.candidates:
            assert sum(candidate.terms.values()) == pytest.approx(candidate.score, abs=1e-5)
    alone = decide(chat("Hello"), [Offer(deployment("a", LIGHT)), Offer(deployment("dear", HEAVY))])
    assert all("affinity" not in candidate.terms for candidate in alone.candidates)


def test_a_name_means_all_endpoints_or_exactly_one() -> None:
    """The configured name reaches any of them, a numbered one that one; the rest is not tried."""
    whole = decide(turn(0), pool())
    exact = decide(turn(0) | {"model": "big#3"}, pool())
    by_model = decide(turn(0) | {"model": "q"}, pool())
    assert {candidate.deployment.name for candidate in whole.candidates} == set(NAMES)
    assert [candidate.deployment.name for candidate in exact.candidates] == ["big#3"]
    assert {candidate.deployment.name for candidate in by_model.candidates} == set(NAMES)
    with pytest.raises(ModelUnknown) as unknown:
        decide(turn(0) | {"model": "nothing-like-it"}, pool())
    assert sorted(unknown.value.details["names"]) == ["auto", "big", "dear", "heavy", "light"]


def test_a_key_that_allows_the_deployment_allows_its_endpoints() -> None:
    """And no others."""
    key = Principal(key_id="k", scope=Scope("acme"), models=frozenset({"big"}))
    decision = decide(chat("Hello"), pool(), principal=key)
    assert {candidate.deployment.name for candidate in decision.candidates} == set(NAMES)
