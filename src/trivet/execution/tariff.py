"""What a request's tokens are on every meter, at the deployment that serves. Pure; exact; rounded up once."""

from dataclasses import field
from fractions import Fraction
from functools import lru_cache

from trivet.domain.budgets import Amounts
from trivet.domain.outcomes import Usage
from trivet.domain.prices import FREE, Price, Prices
from trivet.domain.tiers import Deployment
from trivet.domain.values import value


@value()
class Tariff:
    """A tier's weight and a model's price, as they were when the hold was made."""

    weight: Fraction
    price: Price
    is_free: bool = field(init=False, repr=False, compare=False)
    """Whether no token costs money."""
    _rate: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_free", self.price.is_free)
        object.__setattr__(self, "_rate", self.weight.as_integer_ratio())

    @classmethod
    def of(cls, deployment: Deployment, prices: Prices) -> "Tariff":
        """Return what counts at a deployment now."""
        price = prices.of(deployment)
        if price is FREE:
            return _without_price(deployment.tier.cost_weight)
        return cls(_exact(deployment.tier.cost_weight), price)

    def prompt(self, tokens: int) -> Amounts:
        """Return the amounts of so many prompt tokens, none of them cached: a ceiling."""
        weighted = self._weighted(tokens)
        if self.is_free:
            return Amounts(tokens, weighted)
        dearest = max(price.prompt_ceiling for price in self.price.up_to(tokens))
        return Amounts(tokens, weighted, _up(dearest, tokens))

    def output(self, tokens: int, *, prompt_tokens: int | None = None) -> Amounts:
        """Return the amounts of so many generated tokens, after a prompt of at most so many; None: of any."""
        weighted = self._weighted(tokens)
        if self.is_free:
            return Amounts(tokens, weighted)
        dearest = max(price.completion for price in self.price.up_to(prompt_tokens))
        return Amounts(tokens, weighted, _up(dearest, tokens))

    def charge(self, usage: Usage) -> Amounts:
        """Return the amounts of what was used; never more than `prompt` and `output` of the same tokens."""
        total = usage.prompt_tokens + usage.completion_tokens
        weighted = self._weighted(total)
        if self.is_free:
            return Amounts(total, weighted)
        price = self.price.at(usage.prompt_tokens)
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        cached_price = price.prompt if price.cached_prompt is None else price.cached_prompt
        micros = (
            price.prompt * (usage.prompt_tokens - cached)
            + cached_price * cached
            + price.completion * usage.completion_tokens
        )
        return Amounts(total, weighted, _up(micros, 1))

    def _weighted(self, tokens: int) -> int:
        numerator, denominator = self._rate
        return -(-numerator * tokens // denominator)

    def is_dearer_than(self, other: "Tariff") -> bool:
        """Tell whether any amount can be larger than at the other."""
        return (
            self.weight > other.weight
            or max(p.prompt_ceiling for p in self.price.up_to(None)) > other.price.prompt
            or max(p.completion for p in self.price.up_to(None)) > other.price.completion
        )


def _up(rate: Fraction, tokens: int) -> int:
    """Return rate times tokens, rounded up to a whole number, without making a fraction on the way."""
    numerator, denominator = rate.as_integer_ratio()
    return -(-numerator * tokens // denominator)


@lru_cache(maxsize=1024)
def _exact(weight: float) -> Fraction:
    """Return a weight as it was written: 0.1 is a tenth, not the double next to it."""
    return Fraction(str(weight))


@lru_cache(maxsize=1024)
def _without_price(weight: float) -> Tariff:
    """Return the tariff of what costs nothing by the token: most of what there is."""
    return Tariff(_exact(weight), FREE)
