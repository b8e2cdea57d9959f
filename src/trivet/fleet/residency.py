"""Which model of a swap group shall be in memory now. Pure: it decides, `SwapGroup` acts.

Of a group's members at most one is in memory. Others' requests wait until it is their model's turn:

- The resident model serves whatever comes for it while it has work, and stays for `minimum_residency_s` after
  it became ready. As long again it stays after its last request, while it is asked for more often than that:
  models that are asked for in turn are not swapped in turn.
- But nobody waits for ever. Each waiting request has a limit, `max_wait_s` after it began to wait, or
  earlier where its own deadline asks for it. The swap begins so early that what still runs can end before
  that limit, and that all others who wait can have their swap within theirs.

Requests that another tier serves in a member's place may be told as one that waits; see `Seat.wish`.

So the requests of a model are served in batches, and a request waits at most `max_wait_s` and one swap. That
holds as long as what runs ends in the time that is expected of it, and a swap, the first batch after it and
the swaps of all others that are waited for fit into `max_wait_s`. See `docs/decisions/011-residency.md`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from trivet.domain.engine_states import EngineState

DRAIN_SHARE_MAX = 0.5
"""The part of `max_wait_s` that may at most be given to letting running requests end: what runs very long
must not take the residency from others before it has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator asks for, in seconds."""

    minimum_residency_s: float
    max_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model of the group as it is now. Instants are seconds of one monotonic clock."""

    name: str
    state: EngineState
    """`ready` or `draining`: in memory, else not. The last with `moving` is on its way out."""
    moving: bool = False
    """It is being put into memory or taken out of it: until that has ended there is nothing to decide."""
    bring_s: float
    """How long it is expected to take from now until it answers."""
    leave_s: float = 0.0
    """How long it is expected to take to give its memory back, once nothing runs."""
    drain_s: float = 0.0
    """How long a request of it is expected to run at most."""
    running: int = 0
    waiting: int = 0
    waits_since_s: float | None = None
    """When the one that waits longest began to wait for the model; None where nobody does."""
    due_s: float | None = None
    """When the swap must have begun for the deadline of some waiting request to be met; None: whenever."""
    ready_since_s: float = 0.0
    idle_since_s: float = 0.0
    """When its last request ended; only of meaning while none runs."""
    gap_s: float | None = None
    """The mean time between the last requests for it; None while there were too few to tell."""

    @property
    def in_memory(self) -> bool:
        """Tell whether requests can run on it, or still do."""
        return self.state in (EngineState.READY, EngineState.DRAINING)

    def limit_s(self, rules: Rules) -> float:
        """Return the instant at which a swap to it must begin; infinite where nobody waits."""
        if self.waits_since_s is None:
            return float("inf")
        limit_s = self.waits_since_s + rules.max_wait_s
        return limit_s if self.due_s is None else min(limit_s, max(self.due_s, self.waits_since_s))


class Move(Enum):
    """What to do next."""

    STAY = auto()
    """Let waiting requests of the member in memory run."""
    DRAIN = auto()
    """Let none begin; wait until the running ones have ended."""
    RELEASE = auto()
    """Take the member out of memory."""
    BRING = auto()
    """Put the member into memory."""


@dataclass(frozen=True, slots=True)
class Step:
    """The decision."""

    move: Move
    member: str | None
    """Whom the move is about; None where nobody is in memory and nobody is wanted."""
    look_again_s: float | None
    """When time alone may change the decision; None: only when something happens."""
    reason: str


def decide(members: Sequence[Member], rules: Rules, now_s: float) -> Step:
    """Return the next move. Ask again whenever anything changed, and at `look_again_s`.

    A member that is `draining` while the others' requests still wait stays so: a drain is not taken back
    for a request that came after it began. Once nobody else waits, it is.
    """
    moving = next((member for member in members if member.moving), None)
    if moving is not None:
        return Step(Move.STAY, moving.name, None, f"{moving.name} is {moving.state}; that comes first.")
    resident = next((member for member in members if member.in_memory), None)
    others = sorted(
        (member for member in members if member.waiting and member is not resident),
        key=lambda member: member.limit_s(rules),
    )
    if not others:
        name = resident.name if resident else None
        return Step(Move.STAY, name, None, "Nobody waits for another model.")
    wanted = others[0]
    if resident is None:
        return Step(Move.BRING, wanted.name, None, f"{wanted.waiting} wait for {wanted.name}.")
    start_s, reason = _swap_at(resident, others, rules)
    if now_s < start_s and resident.state is not EngineState.DRAINING:
        return Step(Move.STAY, resident.name, start_s, f"{wanted.name} has its turn later.")
    if resident.running:
        return Step(Move.DRAIN, resident.name, None, reason)
    return Step(Move.RELEASE, resident.name, None, reason)


def expected_wait_s(members: Sequence[Member], rules: Rules, now_s: float, name: str) -> float:
    """Return how long a request for a member that came now would wait for it, in seconds.

    It waits for nothing while the member is in memory and not about to leave; a queue for the engine's slots
    is not counted here.
    """
    member = next(each for each in members if each.name == name)
    if member.state is EngineState.READY:
        return 0.0
    if member.state.is_coming:
        return member.bring_s
    if member.in_memory:
        # It is about to leave for another one, and has to come back after that one's turn.
        return rules.max_wait_s + member.bring_s
    present = next((each for each in members if each.in_memory or each.moving), None)
    if present is None:
        return member.bring_s
    if not member.waiting:
        member = replace(member, waiting=1, waits_since_s=now_s)
    others = [each for each in members if each.waiting and each.name not in (name, present.name)]
    start_s, _ = _swap_at(present, [*others, member], rules)
    staying_s = 0.0 if present.state is EngineState.DRAINING else max(0.0, start_s - now_s)
    if present.state.is_coming:
        staying_s = max(staying_s, present.bring_s)
    return staying_s + (present.drain_s if present.running else 0.0) + present.leave_s + member.bring_s


def _swap_at(resident: Member, others: Sequence[Member], rules: Rules) -> tuple[float, str]:
    """Return when the resident must make room for the first of the others, and why then."""
    latest_s, before_s = float("inf"), 0.0
    for member in sorted(others, key=lambda each: each.limit_s(rules)):
        latest_s = min(latest_s, member.limit_s(rules) - before_s)
        # Whoever comes later waits for this one's swap, and for the end of what it then runs.
        before_s += member.bring_s + member.drain_s + member.leave_s
    # Also of an idle one: a request that begins just before would run on beyond the limit.
    latest_s -= min(resident.drain_s, DRAIN_SHARE_MAX * rules.max_wait_s)
    if not (resident.running or resident.waiting):
        # One that is rarely asked for would keep the others waiting for nothing.
        is_expected = resident.gap_s is None or resident.gap_s <= rules.minimum_residency_s
        served_s = max(resident.ready_since_s, resident.idle_since_s if is_expected else 0.0)
        idle_s = served_s + rules.minimum_residency_s
        if idle_s < latest_s:
            return idle_s, f"{resident.name} has nothing to do."
    return latest_s, f"Requests for {others[0].name} have reached the longest wait."
