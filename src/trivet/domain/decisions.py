"""A routing decision: ordered candidates, and a reason for everything."""

from dataclasses import field

from trivet.domain.tiers import Deployment
from trivet.domain.values import value


@value()
class Complexity:
    """How demanding a request looks, 0 to 1, with the factors that made the score."""

    score: float
    factors: dict[str, float]
    recommended_tier: str


@value()
class Reason:
    """One step of the argument that led to the decision."""

    code: str
    text: str


@value()
class Candidate:
    """A deployment that may serve the request; the terms add up to the score."""

    deployment: Deployment
    score: float
    terms: dict[str, float]


@value()
class Rejection:
    """A deployment that will not be tried, and why.

    `cost_difference` is its tier's cost weight minus the chosen one's; `quality_difference` is its
    predicted quality minus the chosen one's, None while no quality figures are known.
    """

    deployment: Deployment
    code: str
    reason: str
    cost_difference: float | None = None
    quality_difference: float | None = None


@value()
class Estimate:
    """What the request is expected to take. None where nothing is known yet."""

    prompt_tokens: int
    """A ceiling, not a mean: what the ledger would hold for the prompt."""
    max_output_tokens: int
    usd_micros: int | None = None
    device_s: float | None = None
    latency_ms: float | None = None


@value(kw_only=True)
class Decision:
    """The outcome of routing; `candidates` is never empty and its first is the choice."""

    decision_id: str
    complexity: Complexity
    confidence: float
    """Distance of the score from the nearest tier boundary, scaled to 0..1; 1.0 when forced."""
    policy: str
    strategy: str
    reasons: tuple[Reason, ...]
    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...] = ()
    passed_over: str | None = None
    """The deployment that would have been chosen, had it not to be waited for; None if it was chosen."""
    downgraded_from: str | None = None
    """The tier that would have been the target, had the budget allowed it."""
    temperature: float | None = None
    """Default to send upstream when the caller names none."""
    max_output_tokens: int = 1024
    """Cap to send upstream, and to hold."""
    estimated: Estimate = field(default_factory=lambda: Estimate(0, 0))

    @property
    def deployment(self) -> Deployment:
        """Return the chosen deployment."""
        return self.candidates[0].deployment


@value()
class Offer:
    """A deployment as the fleet sees it now: what routing chooses from. Advisory by nature."""

    deployment: Deployment
    state: str = "ready"
    """An `EngineState`, or `open` while the deployment's circuit breaker is open."""
    in_flight: int = 0
    wait_s: float | None = None
    """Expected seconds until it can take a request: 0 when ready, None where nobody can tell."""
