"""The table of classic machines in the guide."""

from dataclasses import replace
from pathlib import Path

import pytest

from trivet.catalog.cards import load_catalog
from trivet.catalog.gpu_table import load_gpu_table
from trivet.lab.plan_table import CLASSICS, page_with, rows

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "plan.md"


def test_the_guide_shows_todays_plans() -> None:
    """`scripts/plan-table` would write what stands there."""
    text = PAGE.read_text(encoding="utf-8")
    assert page_with(text, list(rows(load_catalog(), load_gpu_table()))) == text


def test_a_reason_is_about_the_plan() -> None:
    """When another model wins HEAVY, the reason has to be written anew."""
    stale = replace(CLASSICS[0], heavy="some-other-model")
    with pytest.raises(ValueError, match="some-other-model"):
        list(rows(load_catalog(), load_gpu_table(), [stale]))
