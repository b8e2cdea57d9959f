"""The rows of a request, as they are entered."""

import json
from dataclasses import replace

from tests.unit.metering.makers import deployment, outcome
from trivet.domain.clock import ManualClock
from trivet.domain.decisions import Reason
from trivet.metering.outcome_rows import outcome_row
from trivet.metering.wall_anchor import WallAnchor


def test_reasons_are_json() -> None:
    """Whatever characters are in them, to the letter as the standard library writes them."""
    told = outcome("r1", [], started_ns=0, ended_ns=1, chosen=deployment("light"))
    reasons = (Reason("one", 'says "no"\n\\ and ü, \u2028'), Reason("two", ""))
    told.decision = replace(told.decision, reasons=reasons)
    *_, written = outcome_row(told, None, WallAnchor.taken(ManualClock()))
    assert written == json.dumps([{"code": each.code, "text": each.text} for each in reasons])
