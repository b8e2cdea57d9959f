"""Requests of one priority that wait for the same engine, in a fair order. Pure.

Organisations take turns, in proportion to the work that each was given; within an organisation its teams and
users do; requests of the same scope keep the order in which they came. Every step costs O(log n) of the
tenants, none goes through the line.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from trivet.domain.scopes import Scope, organisation
from trivet.execution.admission.claim import Claim
from trivet.execution.admission.turns import Turns


class Standing(Protocol):
    """Whoever stands in a line."""

    claim: Claim


W = TypeVar("W", bound=Standing)


@dataclass(slots=True)
class _Own(Generic[W]):
    """The requests of one scope, oldest first."""

    waiters: "OrderedDict[W, None]" = field(default_factory=OrderedDict)
    work: int = 0


@dataclass(slots=True)
class _Organisation:
    """The scopes of one organisation that have requests here."""

    turns: Turns = field(default_factory=Turns)
    work: int = 0


class FairLine(Generic[W]):
    """The waiting requests of one priority. Members are told apart by identity."""

    def __init__(self) -> None:
        self.work = 0
        """Of all that wait."""
        self._turns = Turns()
        self._organisations: dict[Scope, _Organisation] = {}
        self._scopes: dict[Scope, _Own[W]] = {}
        self._arrivals: OrderedDict[W, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._arrivals)

    def join(self, waiter: W) -> None:
        """Let a request wait."""
        scope, work = waiter.claim.scope, waiter.claim.work
        house = organisation(scope)
        members = self._organisations.get(house)
        if members is None:
            members = self._organisations[house] = _Organisation()
            self._turns.enter(house)
        own = self._scopes.get(scope)
        if own is None:
            own = self._scopes[scope] = _Own()
            members.turns.enter(scope)
        own.waiters[waiter] = None
        self._arrivals[waiter] = None
        own.work += work
        members.work += work
        self.work += work

    def pop(self) -> W:
        """Return the next request and take it out; one must wait."""
        house = Scope(self._turns.first())
        members = self._organisations[house]
        scope = Scope(members.turns.first())
        own = self._scopes[scope]
        waiter, _ = own.waiters.popitem(last=False)
        del self._arrivals[waiter]
        work = waiter.claim.work
        members.turns.serve(scope, work, stays=bool(own.waiters))
        self._turns.serve(house, work, stays=len(members.turns) > 0)
        self._count_out(house, scope, work)
        return waiter

    def leave(self, waiter: W) -> bool:
        """Take a request out, wherever it stands; False: it did not wait."""
        if waiter not in self._arrivals:
            return False
        del self._arrivals[waiter]
        scope, work = waiter.claim.scope, waiter.claim.work
        house = organisation(scope)
        members, own = self._organisations[house], self._scopes[scope]
        del own.waiters[waiter]
        if not own.waiters:
            members.turns.leave(scope)
            if not len(members.turns):
                self._turns.leave(house)
        self._count_out(house, scope, work)
        return True

    def newest(self) -> W:
        """Return the request that came last; one must wait."""
        return next(reversed(self._arrivals))

    def newest_of_longest(self, claim: Claim) -> W | None:
        """Return the last request of the scope with most waiting; None where that is the claim's own.

        Goes through the scopes; for when the line is full.
        """
        longest = max(self._scopes.values(), key=lambda own: len(own.waiters), default=None)
        mine = self._scopes.get(claim.scope)
        if longest is None or (mine is not None and len(mine.waiters) + 1 >= len(longest.waiters)):
            return None
        return next(reversed(longest.waiters)) if len(longest.waiters) > 1 else None

    def ahead_of(self, claim: Claim) -> int:
        """Return how much work comes before a request that joined now, at most.

        All that waits; or less where the others' long lines do not count, since turns are taken.
        """
        house = organisation(claim.scope)
        members, own = self._organisations.get(house), self._scopes.get(claim.scope)
        own_work = (own.work if own is not None else 0) + claim.work
        scopes = (len(members.turns) if members is not None else 0) + (own is None)
        house_work = min((members.work if members is not None else 0) + claim.work, scopes * own_work)
        houses = len(self._turns) + (members is None)
        return min(self.work, houses * house_work - claim.work)

    def _count_out(self, house: Scope, scope: Scope, work: int) -> None:
        self.work -= work
        members, own = self._organisations[house], self._scopes[scope]
        members.work -= work
        own.work -= work
        if not own.waiters:
            del self._scopes[scope]
        if not len(members.turns):
            del self._organisations[house]
