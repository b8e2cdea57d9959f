"""Where answers lie: the same for the same request, never the same for two tenants."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.cache.places import Places
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment, Tier

TIER = Tier(name="light", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=1.0)
ACME, TEAM, GLOBEX = Scope("acme"), Scope("acme.search"), Scope("globex")
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you now?"}],
    "max_tokens": 8,
    "temperature": 0,
}


def deployment(name: str = "light-model", model: str = "m") -> Deployment:
    """Return a deployment."""
    return Deployment(
        name=name,
        tier=TIER,
        engine="vllm",
        model=model,
        transport="relay",
        url=None,
        context_tokens=100,
        slots=1,
        devices=(),
    )


def places(secret: bytes = b"s" * 32, partition: Any = "organisation") -> Places:
    """Return what finds places."""
    return Places(secret, partition=partition, similar=True)


def test_order_and_delivery_do_not_matter() -> None:
    """Keys in another order, a stream, metadata: the same place."""
    told = dict(reversed(BODY.items())) | {
        "stream": True,
        "stream_options": {"include_usage": True},
        "metadata": {"a": "b"},
    }
    assert places().of(ACME, deployment(), BODY) == places().of(ACME, deployment(), told)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 9},
        {"temperature": 0.0},
        {"seed": 1},
        {"user": "ana"},
        {"messages": BODY["messages"][1:]},
        {"messages": [*BODY["messages"][:1], {"role": "user", "content": "How are you not?"}]},
        {"messages": [*BODY["messages"][:1], {"role": "user", "content": "How are you now?", "name": "x"}]},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_what_may_change_the_answer_is_another_place(change: dict[str, Any]) -> None:
    """For the exact digest and for the other one."""
    here, there = places().of(ACME, deployment(), BODY), places().of(ACME, deployment(), BODY | change)
    assert here.exact != there.exact
    assert here.similar != there.similar
    assert here.similar is not None


def test_another_model_is_another_place() -> None:
    """By the name of the deployment, and by that of the model behind it."""
    found = {
        places().of(ACME, each, BODY).exact
        for each in (deployment(), deployment("other"), deployment(model="n"))
    }
    assert len(found) == 3


def test_servers_of_one_deployment_share_places() -> None:
    """Whichever of them answered: it is the same model under the same name."""
    here, there = (replace(deployment(name), endpoint_of="m") for name in ("m#1", "m#2"))
    assert places().of(ACME, here, BODY) == places().of(ACME, there, BODY)


@given(st.text(max_size=30), st.text(max_size=30))
def test_tenants_never_meet(one: str, other: str) -> None:
    """Whatever two organisations ask, no digest of the one is one of the other."""
    bodies = [{"messages": [{"role": "user", "content": text}]} for text in (one, other)]
    found = [places().of(scope, deployment(), b) for scope in (ACME, GLOBEX) for b in bodies]
    digests = [{d for d in (p.exact, p.similar) if d is not None} for p in found]
    assert (digests[0] | digests[1]) & (digests[2] | digests[3]) == set()


def test_only_what_was_sealed_for_a_place_is_taken_from_it() -> None:
    """Neither what somebody else wrote, nor what was changed, nor what lay at another place."""
    here, there = (places().of(scope, deployment(), BODY).exact for scope in (ACME, GLOBEX))
    sealed = places().sealed(here, b"answer")
    assert places().unsealed(here, sealed) == b"answer"
    wrong = (b"", b"answer", sealed[:-1], sealed[:-1] + b"!", places(b"t" * 32).sealed(here, b"answer"))
    assert [places().unsealed(here, each) for each in wrong] == [None] * len(wrong)
    assert places().unsealed(there, sealed) is None


def test_who_shares_is_a_setting() -> None:
    """An organisation's scopes do, unless each is for itself; another server's secret is another place."""
    assert places().of(ACME, deployment(), BODY) == places().of(TEAM, deployment(), BODY)
    apart = places(partition="scope")
    assert apart.of(ACME, deployment(), BODY) != apart.of(TEAM, deployment(), BODY)
    assert apart.of(ACME, deployment(), BODY) != places().of(ACME, deployment(), BODY)
    assert places(b"t" * 32).of(ACME, deployment(), BODY) != places().of(ACME, deployment(), BODY)


def test_only_a_users_words_are_read_for_likeness() -> None:
    """The last message of somebody else, or one in parts, has its exact place only."""
    for last in (
        {"role": "assistant", "content": "How are you now?"},
        {"role": "user", "content": [{"type": "text", "text": "How are you now?"}]},
        {"role": "user", "content": None},
    ):
        assert places().of(ACME, deployment(), {"messages": [last]}).similar is None
