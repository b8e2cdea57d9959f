"""One deployment's endpoint as requests know it: found once for each attempt."""

from dataclasses import dataclass

from trivet.execution.breaker import Breaker
from trivet.execution.conditions import Condition
from trivet.execution.retry_budget import RetryBudget
from trivet.fleet import Endpoint


@dataclass(frozen=True, slots=True)
class Station:
    """What decides whether a request goes there. For the event loop's thread."""

    endpoint: Endpoint
    breaker: Breaker
    condition: Condition
    retries: RetryBudget
    """Its tier's."""

    @property
    def takes(self) -> bool:
        """Tell whether a request may go there now, as far as is known.

        Its engine answers its probe, its breaker lets requests through, and it does not ask to be left alone.
        """
        if not self.endpoint.standing.is_ready:
            return False
        breaker, condition = self.breaker, self.condition
        return (not breaker.rests or breaker.lets_through) and not (
            condition.busy_until_ns and condition.busy_s
        )
