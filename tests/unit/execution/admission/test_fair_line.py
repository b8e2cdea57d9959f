"""The fair line: tenants take turns by work, nobody starves, and the estimate is a bound."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from trivet.domain.scopes import Scope, organisation
from trivet.execution.admission.claim import Claim
from trivet.execution.admission.fair_line import FairLine


@dataclass(eq=False)
class Waiter:
    """Somebody in the line."""

    claim: Claim


SCOPES = ("acme", "acme.search", "acme.search.ana", "beta", "beta.ops", "gamma")
claims = st.builds(
    lambda scope, work: Claim(scope=Scope(scope), priority="interactive", work=work),
    st.sampled_from(SCOPES),
    st.integers(1, 5000),
)


def waiter(scope: str, work: int = 100) -> Waiter:
    """Return a request of a scope."""
    return Waiter(Claim(scope=Scope(scope), priority="interactive", work=work))


def drained(line: FairLine[Waiter]) -> list[Waiter]:
    """Let all through."""
    return [line.pop() for _ in range(len(line))]


def test_organisations_take_turns_and_scopes_within_them() -> None:
    """A flood of one tenant does not delay another's few requests; each keeps its own order."""
    line: FairLine[Waiter] = FairLine()
    flood = [waiter("acme.bulk") for _ in range(50)]
    for each in flood:
        line.join(each)
    others = [waiter("acme.ana"), waiter("beta"), waiter("beta")]
    for each in others:
        line.join(each)
    order = drained(line)
    assert [order.index(each) for each in others] == [2, 1, 3]
    assert [each for each in order if each in flood] == flood


def test_turns_weigh_the_work() -> None:
    """Who asks for ten times the work gets a tenth of the turns."""
    line: FairLine[Waiter] = FairLine()
    for _ in range(100):
        line.join(waiter("acme", 1000))
        line.join(waiter("beta", 100))
    first = [line.pop().claim.scope for _ in range(110)]
    assert 99 <= Counter(first)[Scope("beta")] <= 101


@given(st.lists(claims, min_size=1, max_size=60), st.data())
def test_each_comes_out_once_and_the_sums_are_right(asked: list[Claim], data: st.DataObject) -> None:
    """Joining, leaving from anywhere and popping in any mixture lose nobody and count right."""
    line: FairLine[Waiter] = FairLine()
    inside: list[Waiter] = []
    for claim in asked:
        each = Waiter(claim)
        line.join(each)
        inside.append(each)
        action = data.draw(st.sampled_from(("join", "leave", "pop")))
        if action == "leave":
            left = inside.pop(data.draw(st.integers(0, len(inside) - 1)))
            assert line.leave(left)
            assert not line.leave(left)
        elif action == "pop":
            inside.remove(line.pop())
        assert line.work == sum(each.claim.work for each in inside)
        assert len(line) == len(inside)
        if inside:
            assert line.newest() is inside[-1]
    assert set(drained(line)) == set(inside)
    assert line.work == 0


@given(st.lists(claims, max_size=60), claims)
def test_the_work_ahead_is_a_bound(asked: list[Claim], mine: Claim) -> None:
    """No more comes before a request than was foretold, if nobody else joins."""
    line: FairLine[Waiter] = FairLine()
    for claim in asked:
        line.join(Waiter(claim))
    foretold, last = line.ahead_of(mine), Waiter(mine)
    assert 0 <= foretold <= line.work
    line.join(last)
    order = drained(line)
    before = [each.claim for each in order[: order.index(last)]]
    # A turn is whole: each other taker may be one request ahead of its share.
    houses = {organisation(claim.scope) for claim in asked}
    slack = (len(houses) + len(SCOPES)) * max((claim.work for claim in asked), default=0)
    assert sum(claim.work for claim in before) <= foretold + slack


def test_a_full_line_sends_away_who_has_most_in_it() -> None:
    """The newest of the longest; nobody, where that is the asker itself or all have but one."""
    line: FairLine[Waiter] = FairLine()
    ones = [waiter("acme"), waiter("beta")]
    for each in ones:
        line.join(each)
    assert line.newest_of_longest(waiter("gamma").claim) is None
    more = [waiter("acme"), waiter("acme")]
    for each in more:
        line.join(each)
    assert line.newest_of_longest(waiter("gamma").claim) is more[-1]
    assert line.newest_of_longest(waiter("acme").claim) is None


def test_nothing_is_remembered_of_those_who_left() -> None:
    """Many tenants that come and go leave nothing behind."""
    line: FairLine[Waiter] = FairLine()
    stays = waiter("stays")
    line.join(stays)
    for index in range(1000):
        passing = waiter(f"tenant{index}")
        line.join(passing)
        line.leave(passing)
    kept = len(line._turns._heap) + len(line._turns._ended) + len(line._organisations) + len(line._scopes)
    assert kept < 200
    assert line.pop() is stays
