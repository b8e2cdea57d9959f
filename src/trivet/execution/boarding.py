"""One request's way to a place before an engine, ahead of its hold."""

from collections.abc import Callable
from dataclasses import replace

from trivet.domain.decisions import Decision
from trivet.execution.admission import Claim, Entry
from trivet.execution.chain import Chain
from trivet.execution.run import Run

LIKELY_BYTES_PER_TOKEN = 4
LONG_WAIT_NS = 1_000_000_000
"""After a longer wait for its place a request is decided anew."""
PLACES_TO_LOOK_FOR = 2
"""So often a place is looked for, the first time included; then the chain looks for itself."""


def claim_of(run: Run) -> Claim:
    """Return what the request asks of a gate. The ceiling of a prompt counts bytes."""
    prompt_bytes = run.decision.estimated.prompt_tokens
    return Claim(
        scope=run.principal.scope,
        priority=run.principal.priority_of(run.request.hints.priority),
        work=prompt_bytes // LIKELY_BYTES_PER_TOKEN + run.output_cap,
        prompt_bytes=prompt_bytes,
        streamed=run.request.stream,
    )


async def find_place(
    entry: Entry, run: Run, chain: Chain, *, again: Callable[[], Decision] | None, on_wait: Callable[[], None]
) -> None:
    """Wait until an engine has room for the request; nothing is held meanwhile.

    Much may change in a wait: after a longer one the decision is made anew, and a place that it does not
    want any more is given back.

    Args:
        entry: gets the place.
        run: the request; its decision becomes the one to go by.
        chain: knows the engines.
        again: decides anew; None where the decision is the caller's.
        on_wait: called before a wait.

    Raises:
        Overloaded: the wait would be too long.
        TrivetError: nothing may serve it any more.
    """
    if not run.request.surface.computes:
        return  # an engine's tokenizer takes no place from those that generate
    for _ in range(PLACES_TO_LOOK_FOR):
        before_ns = entry.waited_ns
        run.decision = await chain.find_place(entry, run.decision, started_ns=run.started_ns, on_wait=on_wait)
        if entry.waited_ns - before_ns < LONG_WAIT_NS or again is None:
            return
        anew = replace(again(), decision_id=run.decision.decision_id)
        found = [each for each in anew.candidates if each.deployment.name == entry.name]
        others = [each for each in anew.candidates if each.deployment.name != entry.name]
        run.decision = replace(anew, candidates=(*found, *others))
        if found:
            return
        entry.close()
