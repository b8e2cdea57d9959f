"""What an engine's endpoint can be in, under one set of names: in the fleet, in decisions, in the API."""

from enum import StrEnum


class EngineState(StrEnum):
    """The state of one deployment's engine. Advice for routing; a request finds the truth itself.

    A launched engine goes absent → loading → ready and, where it swaps, ready → draining → sleeping →
    loading → ready; an Ollama model that must be fetched goes absent → pulling → loading. `failed` is left
    by the next start, `down` by the next probe that is answered.
    """

    ABSENT = "absent"
    """Not there: not started yet, or its model is not on the machine or not in memory."""
    PULLING = "pulling"
    """The engine fetches the model's files."""
    LOADING = "loading"
    """The engine starts, loads its model or wakes: it will answer, only not yet."""
    READY = "ready"
    """It answers its probe."""
    SLEEPING = "sleeping"
    """It runs, but its model has given its GPU memory back; it must be woken first."""
    DRAINING = "draining"
    """It ends what it has begun and takes nothing new: it is about to sleep or to be stopped."""
    FAILED = "failed"
    """Trivet started it and it died, did not become ready, or runs without answering."""
    DOWN = "down"
    """Somebody else runs it, and nobody answers there."""

    __hash__ = str.__hash__  # as equality is the text's; an enumeration's own is a call of Python's

    @property
    def is_coming(self) -> bool:
        """Tell whether waiting alone makes it ready. Loading is not dead."""
        return self in (EngineState.PULLING, EngineState.LOADING)


def out_of_service(*, launched: bool) -> EngineState:
    """Return the state of an engine that does not serve: ours has failed, another's is down."""
    return EngineState.FAILED if launched else EngineState.DOWN
