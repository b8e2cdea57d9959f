"""What tokens cost in money. Values only; `engines` knows where prices come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from trivet.domain.tiers import Deployment

ZERO = Fraction(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Millionths of a US dollar for one token, exactly. `cached_prompt` None: as `prompt`."""

    prompt: Fraction = ZERO
    completion: Fraction = ZERO
    cached_prompt: Fraction | None = None
    beyond: "tuple[tuple[int, Price], ...]" = ()
    """What counts instead, for the whole request, once its prompt has more than so many tokens; ascending."""
    known: bool = True
    """False: nobody knows the price, so no limit in dollars can be kept."""

    def at(self, prompt_tokens: int) -> "Price":
        """Return the price of a request whose prompt has so many tokens."""
        found = self
        for tokens, price in self.beyond:
            if prompt_tokens > tokens:
                found = price
        return found

    def up_to(self, prompt_tokens: int | None) -> "Iterator[Price]":
        """Yield each price that a request can come to whose prompt has at most so many tokens; None: all."""
        yield self
        for tokens, price in self.beyond:
            if prompt_tokens is None or prompt_tokens > tokens:
                yield price

    @property
    def is_free(self) -> bool:
        """Tell whether this is the price of what costs nothing by the token: FREE itself, not its like."""
        return self is FREE

    @property
    def prompt_ceiling(self) -> Fraction:
        """Return the most that a prompt token can cost, cached or not; `beyond` is not looked at."""
        return max(self.prompt, self.cached_prompt or self.prompt)


FREE = Price()
"""What a model on the operator's own machine costs by the token."""
UNKNOWN = Price(known=False)
"""What a cloud model costs of which no table knows."""


class Prices(Protocol):
    """A table of prices. It may change at any time; whoever holds budget keeps the price that it held at."""

    def of(self, deployment: Deployment) -> Price:
        """Return the price of a deployment's tokens now."""
        ...


class NoPrices:
    """A table in which everything is free."""

    def of(self, deployment: Deployment) -> Price:
        """Return the price of nothing."""
        return FREE
