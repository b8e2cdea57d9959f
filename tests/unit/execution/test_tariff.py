"""Tokens on every meter: exact, rounded up once, and a hold that is a ceiling of every charge."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from trivet.domain.budgets import Amounts, Hold
from trivet.domain.outcomes import Usage
from trivet.domain.prices import FREE, NoPrices, Price
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment, Tier
from trivet.execution.tariff import Tariff

counts = st.integers(0, 10**6)
parts = st.fractions(0, 100, max_denominator=10**6)


def deployment(weight: float) -> Deployment:
    """Return a deployment of a tier with this weight."""
    tier = Tier(name="t", order=0, cost_weight=weight, complexity_low=0, complexity_high=1)
    return Deployment(
        name="d",
        tier=tier,
        engine="openai",
        model="m",
        transport="relay",
        url=None,
        context_tokens=1000,
        slots=1,
        devices=(),
    )


def test_weights_are_meant_as_they_are_written() -> None:
    """A weight of 0.1 is a tenth: ten tokens weigh one, not two by a rounding of doubles."""
    tariff = Tariff.of(deployment(0.1), NoPrices())
    assert tariff.prompt(10) == Amounts(10, 1, 0)
    assert tariff.output(11) == Amounts(11, 2, 0)
    assert tariff.charge(Usage(10, 11)) == Amounts(21, 3, 0)


def test_cached_prompt_tokens_have_their_price() -> None:
    """Cached tokens are held at the dearer price and charged at their own; never more than the prompt."""
    price = Price(prompt=Fraction(2), completion=Fraction(8), cached_prompt=Fraction(1, 2))
    tariff = Tariff(Fraction(1), price)
    assert tariff.prompt(100).usd_micros == 200
    assert tariff.charge(Usage(100, 10, cached_tokens=60)).usd_micros == 2 * 40 + 30 + 80
    assert tariff.charge(Usage(100, 0, cached_tokens=1000)).usd_micros == 50


@given(counts, counts, st.integers(1, 10**6), parts, parts, parts, parts)
def test_a_hold_is_a_ceiling_whatever_is_granted(
    prompt: int, used: int, cap: int, weight: Fraction, first: Fraction, second: Fraction, cached: Fraction
) -> None:
    """What fits into the tokens granted is never charged beyond the hold for them, on any meter."""
    tariff = Tariff(weight, Price(prompt=first, completion=second, cached_prompt=cached))
    hold = Hold(scope=Scope("acme"), prompt=tariff.prompt(prompt), output=tariff.output(cap), max_output=cap)
    granted = min(used, cap)
    charged = tariff.charge(Usage(prompt, granted, cached_tokens=prompt // 2))
    assert (charged - hold.amounts(granted)).at_least(0) == Amounts()


def test_dearer_in_any_part_is_dearer() -> None:
    """A tariff is dearer when any of its parts is."""
    plain, heavy = Tariff(Fraction(1), FREE), Tariff(Fraction(3), FREE)
    cloud = Tariff(Fraction(1), Price(completion=Fraction(1)))
    assert heavy.is_dearer_than(plain)
    assert cloud.is_dearer_than(plain)
    assert not plain.is_dearer_than(heavy)


def test_priority_can_only_be_lowered() -> None:
    """A caller may ask for less than its key has; more, or nonsense, leaves the key's."""
    told = {
        (has, asks): Principal(key_id="k", scope=Scope("acme"), priority=has).priority_of(asks)
        for has in ("batch", "interactive", "critical")
        for asks in (None, "batch", "interactive", "critical", "urgent")
    }
    assert [told["interactive", asks] for asks in (None, "batch", "critical", "urgent")] == [
        "interactive",
        "batch",
        "interactive",
        "interactive",
    ]
    assert told["critical", "interactive"] == "interactive"
    assert {told["batch", asks] for asks in (None, "interactive", "critical")} == {"batch"}


def test_long_prompts_are_held_and_charged_at_their_price() -> None:
    """The hold is the dearest that the prompt can come to, the charge what its length really costs."""
    long = Price(prompt=Fraction(5), completion=Fraction(15))
    price = Price(prompt=Fraction(2), completion=Fraction(10), beyond=((1000, long),))
    tariff = Tariff(Fraction(1), price)
    assert tariff.prompt(1000).usd_micros == 2000
    assert tariff.prompt(1001).usd_micros == 5005
    assert tariff.output(10, prompt_tokens=1000).usd_micros == 100
    assert tariff.output(10, prompt_tokens=1001).usd_micros == 150
    assert tariff.output(10).usd_micros == 150
    assert tariff.charge(Usage(1000, 10)).usd_micros == 2100
    assert tariff.charge(Usage(1001, 10)).usd_micros == 5155
    assert tariff.is_dearer_than(Tariff(Fraction(1), Price(prompt=Fraction(4), completion=Fraction(20))))
