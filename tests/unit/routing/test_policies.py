"""Policies by task type, and the range that policy and hints leave."""

import pytest

from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import Hints
from trivet.routing.complexity import DEFAULT_TIERS
from trivet.routing.policies import Policy, PolicyBook, tier_range

BOOK = PolicyBook(
    policies={"normal": Policy(name="normal"), "ops": Policy(name="ops", max_tier="light")},
    task_types={"simple_query": "ops"},
    default="normal",
)


@pytest.mark.parametrize(
    ("task_type", "expected"), [(None, "normal"), ("simple_query", "ops"), ("?", "normal")]
)
def test_a_task_type_finds_its_policy(task_type: str | None, expected: str) -> None:
    """A listed task type has its policy; every other has the default."""
    assert expected == BOOK.find(task_type).name


@pytest.mark.parametrize(
    ("policy", "hints", "expected", "codes"),
    [
        ((None, None), (None, None), (0, 2), []),
        (("standard", None), (None, None), (1, 2), ["policy_min_tier"]),
        ((None, "light"), (None, None), (0, 0), ["policy_max_tier"]),
        ((None, None), ("standard", "standard"), (1, 1), ["hint_min_tier", "hint_max_tier"]),
        (("standard", None), (None, "standard"), (1, 1), ["policy_min_tier", "hint_max_tier"]),
        (("standard", None), ("light", None), (1, 2), ["policy_min_tier", "hint_min_tier"]),
        ((None, "light"), ("heavy", None), (2, 2), ["policy_max_tier", "hint_min_tier", "hint_over_policy"]),
        (("heavy", None), (None, "light"), (0, 0), ["policy_min_tier", "hint_max_tier", "hint_over_policy"]),
        (("absent", "absent"), (None, None), (0, 2), []),
        (("heavy", "light"), (None, None), (2, 2), ["policy_min_tier"]),
    ],
)
def test_policy_and_hints_combine(
    policy: tuple[str | None, str | None],
    hints: tuple[str | None, str | None],
    expected: tuple[int, int],
    codes: list[str],
) -> None:
    """Both limits apply; a hint wins a conflict and says so; tiers that are absent are ignored."""
    limits = tier_range(
        DEFAULT_TIERS,
        Hints(min_tier=hints[0], max_tier=hints[1]),
        Policy(name="p", min_tier=policy[0], max_tier=policy[1]),
    )
    assert expected == (limits.low, limits.high)
    assert codes == [reason.code for reason in limits.reasons]


@pytest.mark.parametrize(
    ("hints", "param"),
    [
        (Hints(min_tier="huge"), "min_tier"),
        (Hints(max_tier="huge"), "max_tier"),
        (Hints(min_tier="heavy", max_tier="light"), "min_tier"),
    ],
)
def test_hints_that_make_no_sense_are_refused(hints: Hints, param: str) -> None:
    """An unknown tier, or a minimum above the maximum, is refused with the tiers named."""
    with pytest.raises(RequestMalformed, match="light, standard, heavy") as caught:
        tier_range(DEFAULT_TIERS, hints)
    assert param == caught.value.param
