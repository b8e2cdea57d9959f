"""What is said of settings that can be written in more than one form."""

import pytest

from tests.unit.config.conftest import Refuse

LINE = "file trivet.yaml:1"
FORMS = "one of default, strict, or a list of mappings"


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        ("lax", f"budgets.ladder ({LINE}): got 'lax'; allowed: {FORMS}."),
        ("5", f"budgets.ladder ({LINE}): got 5; allowed: {FORMS}."),
        ("{a: 5}", f"got a mapping; allowed: {FORMS}."),
        ("[5]", f"budgets.ladder.0 ({LINE}): got 5; allowed: a mapping with the keys percent, actions."),
        ("[{percent: 190, actions: [notify]}]", f"budgets.ladder.0.percent ({LINE}): got 190; allowed:"),
        ("[{percent: 90, actions: [explode]}]", f"budgets.ladder.0.actions.0 ({LINE}): got 'explode'"),
    ],
)
def test_a_ladder_that_is_none_is_told_as_it_was_written(refuse: Refuse, ladder: str, said: str) -> None:
    """A key that may be a word or a list is one key, and what was written there is no secret."""
    told = refuse(f"budgets: {{ladder: {ladder}}}")
    assert said in told
    assert "problems" not in told
