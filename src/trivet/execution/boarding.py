"""One request's way to a place before an engine, ahead of its hold."""

from collections.abc import Callable
from dataclasses import replace

from trivet.domain.decisions import Decision
from trivet.execution.chain import Chain
from trivet.execution.run import Run

LONG_WAIT_NS = 1_000_000_000
"""After a longer wait for its place a request is decided anew."""
PLACES_TO_LOOK_FOR = 2
"""So often a place is looked for, the first time included; then the chain looks for itself."""


async def find_place(run: Run, chain: Chain, *, again: Callable[[], Decision] | None) -> None:
    """Wait until an engine has room for the request; nothing is held meanwhile.

    Much may change in a wait: after a longer one the decision is made anew, and a place that it does not
    want any more is given back.

    Args:
        run: the request; its entry gets the place, and its decision becomes the one to go by.
        chain: knows the engines.
        again: decides anew; None where the decision is the caller's.

    Raises:
        Overloaded: the wait would be too long.
        TrivetError: nothing may serve it any more.
    """
    entry = run.entry
    for _ in range(PLACES_TO_LOOK_FOR):
        before_ns = entry.waited_ns
        run.decision = await chain.find_place(run)
        if entry.waited_ns - before_ns < LONG_WAIT_NS or again is None:
            return
        anew = replace(again(), decision_id=run.decision.decision_id)
        found = [each for each in anew.candidates if each.deployment.name == entry.name]
        others = [each for each in anew.candidates if each.deployment.name != entry.name]
        run.decision = replace(anew, candidates=(*found, *others))
        if found:
            return
        entry.close()
