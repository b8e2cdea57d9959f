"""What tokens cost in money. Values only; `engines` knows where prices come from."""

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


FREE = Price()
"""What a model on the operator's own machine costs by the token."""


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
