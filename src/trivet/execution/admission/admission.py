"""Which candidate takes a request: one that has room, before any that has not."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from trivet.config.admission_settings import AdmissionSettings
from trivet.domain.clock import Clock
from trivet.domain.decisions import Candidate, Decision, Reason
from trivet.domain.errors import Overloaded
from trivet.domain.tiers import Deployment
from trivet.execution.admission.claim import Claim
from trivet.execution.admission.gate import Gate, Ticket
from trivet.metering.counters import Histogram

WAIT_PER_TIER_S = 5.0
"""Waiting so long is as bad as one tier upwards: the exchange rate of the score, `routing.scoring`."""


class Entry:
    """What a request has got on its way to an engine. Use as a context manager: what is unused goes back."""

    __slots__ = ("claim", "name", "ticket", "waited_ns")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.ticket: Ticket | None = None
        self.name = ""
        """The deployment that the ticket is for."""
        self.waited_ns = 0

    def take(self, name: str) -> Ticket | None:
        """Hand the ticket over, if it is for this deployment; one for another goes back."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None and self.name != name:
            ticket.release()
            return None
        return ticket

    def take_wait_ns(self) -> int:
        """Return how long the request waited for its ticket; once, so that only one attempt shows it."""
        waited_ns, self.waited_ns = self.waited_ns, 0
        return waited_ns

    def close(self) -> None:
        """Give back a ticket that nobody took."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.release()

    def __enter__(self) -> Self:
        """Hold it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what is unused."""
        self.close()


class Admission:
    """The gates of all engines, made when first asked for."""

    def __init__(
        self,
        settings: AdmissionSettings,
        clock: Clock,
        *,
        takes: Callable[[Deployment], bool],
        waits: Histogram,
    ) -> None:
        """Take the section and the clocks.

        Args:
            settings: the section.
            clock: both clocks; its monotonic one must be the event loop's.
            takes: whether a deployment's engine can take a request now.
            waits: counts those that had to wait for their turn.
        """
        self._settings = settings
        self._clock = clock
        self._takes = takes
        self._waits = waits
        self._gates: dict[str, Gate] = {}

    def gates(self) -> Iterable[Gate]:
        """Return every gate that was ever asked."""
        return self._gates.values()

    def report(self, name: str) -> dict[str, Any] | None:
        """Return a deployment's gate as the API shows it; None where nobody has asked it yet."""
        gate = self._gates.get(name)
        return gate.as_json() if gate is not None else None

    def gate(self, deployment: Deployment) -> Gate:
        """Return a deployment's gate."""
        gate = self._gates.get(deployment.name)
        if gate is None:
            slots = max(1, deployment.slots)
            ceiling = slots * self._settings.growth if deployment.slots_guessed else slots
            gate = self._gates[deployment.name] = Gate(
                deployment.name,
                seed=slots,
                ceiling=ceiling,
                settings=self._settings,
                clock=self._clock,
                waits=self._waits,
            )
        return gate

    async def place(
        self, entry: Entry, deployment: Deployment, *, left_s: float, last: bool, on_wait: Callable[[], None]
    ) -> Ticket | None:
        """Return the leave to go to a deployment: what the entry has for it, else a new one.

        None where models share memory by turns: the group has places of its own, see `fleet.swap_group`.

        Raises:
            Overloaded: there is no room, and either there are other candidates, or the wait is too long.
        """
        ticket = entry.take(deployment.name)
        if ticket is not None or deployment.swap_group is not None:
            return ticket
        gate = self.gate(deployment)
        ticket = gate.take(entry.claim)
        if ticket is None:
            if not last:
                raise gate.overloaded(entry.claim)
            on_wait()
            ticket = await gate.queue(entry.claim, left_s=left_s)
        return ticket

    def enter(self, entry: Entry, first: Deployment) -> bool:
        """Get the entry the best candidate's ticket if there is room; False: a place must be looked for.

        Where the best one is not in memory, the chain waits for that, and asks its gate afterwards: there is
        no ticket then.
        """
        if first.swap_group is not None or not self._takes(first):
            return True
        gate = self._gates.get(first.name) or self.gate(first)
        ticket = gate.take(entry.claim)
        if ticket is None:
            return False
        entry.ticket, entry.name = ticket, first.name
        return True

    async def find_place(
        self, entry: Entry, decision: Decision, *, left_s: float, on_wait: Callable[[], None]
    ) -> Decision:
        """Get the entry a ticket, after waiting if need be; return the decision with its deployment first.

        The best candidate that has room takes the request, though never one below what was aimed at, as
        long as waiting helps.

        Raises:
            Overloaded: every queue is longer than the request can wait.
        """
        if self.enter(entry, decision.deployment):
            return decision
        gated = [each for each in decision.candidates if self._is_gated(each.deployment)]
        will_do = [each for each in gated if not _is_last_resort(each, decision.candidates)]
        found = self._with_room(entry, will_do[1:])
        if found is None:
            best = self._least_wait(will_do, entry.claim, left_s)
            if best is None:
                found = self._with_room(entry, [each for each in gated if each not in will_do])
                best = None if found else self._least_wait(gated, entry.claim, left_s)
            if found is None and best is None:
                raise self._refusal(gated, entry.claim)
            if best is not None:
                on_wait()
                gate = self.gate(best.deployment)
                entry.ticket, entry.name = await gate.queue(entry.claim, left_s=left_s), best.deployment.name
                entry.waited_ns += entry.ticket.waited_ns
                found = best
        assert found is not None  # noqa: S101 - or it would have been refused
        return _with_first(decision, found, entry.waited_ns)

    def _is_gated(self, deployment: Deployment) -> bool:
        return deployment.swap_group is None and self._takes(deployment)

    def _with_room(self, entry: Entry, candidates: Sequence[Candidate]) -> Candidate | None:
        for candidate in candidates:
            ticket = self.gate(candidate.deployment).take(entry.claim)
            if ticket is not None:
                entry.ticket, entry.name = ticket, candidate.deployment.name
                return candidate
        return None

    def _least_wait(self, candidates: Sequence[Candidate], claim: Claim, left_s: float) -> Candidate | None:
        """Return where to queue: the least wait, a tier upwards counted as a wait, too."""
        best: tuple[float, Candidate] | None = None
        for candidate in candidates:
            gate = self.gate(candidate.deployment)
            wait_s = gate.wait_s(claim) or 0.0
            if wait_s > gate.bound_s(claim.priority, left_s):
                continue
            tiers = abs(candidate.deployment.tier.order - candidates[0].deployment.tier.order)
            cost_s = wait_s + WAIT_PER_TIER_S * tiers
            if best is None or cost_s < best[0]:
                best = cost_s, candidate
        return best[1] if best is not None else None

    def _refusal(self, candidates: Sequence[Candidate], claim: Claim) -> Overloaded:
        """Return the refusal of the gate that the request would have passed first; it counts there."""
        gates = [self.gate(candidate.deployment) for candidate in candidates]
        soonest = min(gates, key=lambda gate: gate.wait_s(claim) or 0.0)
        return soonest.shed_at_once(claim)


def _is_last_resort(candidate: Candidate, among: Sequence[Candidate]) -> bool:
    """Tell whether a candidate lies below what was aimed at, and not for a budget's sake."""
    prefers_cheaper = any(each.terms.get("budget", 0.0) < 0 for each in among)
    nothing_else = among[0].terms.get("downgrade", 0.0) < 0
    return candidate.terms.get("downgrade", 0.0) < 0 and not (prefers_cheaper or nothing_else)


def _with_first(decision: Decision, found: Candidate, waited_ns: int) -> Decision:
    """Return the decision with the candidate first that has let the request through, and say why."""
    first = decision.candidates[0]
    reasons = decision.reasons
    if found is not first:
        text = f"{first.deployment.name} is full: {found.deployment.name} is tried first."
        reasons = (*reasons, Reason("full", text))
    if waited_ns:
        reasons = (*reasons, Reason("queued", f"It waited {waited_ns / 1e9:.1f} s for its turn."))
    others = tuple(each for each in decision.candidates if each is not found)
    return replace(decision, candidates=(found, *others), reasons=reasons)
