"""What a caller is told when every candidate failed."""

from dataclasses import replace

import pytest

from tests.unit.metering.makers import HEAVY, LIGHT, decision, deployment
from trivet.domain.decisions import Rejection
from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineLoading,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from trivet.domain.outcomes import Attempt
from trivet.execution.verdict import LOADING_S, most_telling

SMALL = replace(deployment("small", LIGHT), context_tokens=256)
LARGE = replace(deployment("large", HEAVY), context_tokens=1024)
DECISION = decision(SMALL, LARGE)


def attempts_at(*names: str) -> list[Attempt]:
    """Return ended attempts."""
    return [
        Attempt(attempt_id=name, deployment=deployment(name, LIGHT), dispatched_ns=0, error_code="x")
        for name in names
    ]


@pytest.mark.parametrize("error", [EngineUnavailable("It refuses."), EngineBroken("It failed.")])
def test_a_dead_engine_is_named(error: EngineError) -> None:
    """Which engines were tried, and where to look."""
    told = str(most_telling([error], attempts_at("vllm/a", "ollama/b", "vllm/a"), DECISION, {}))
    assert told.endswith("Tried: vllm/a, ollama/b. `trivet doctor` shows what each engine says.")


def test_an_engines_words_end_before_ours_begin() -> None:
    """Where an engine's last word has no full stop, the hint is a sentence of its own all the same."""
    told = str(most_telling([EngineBroken("It failed: no")], attempts_at("a"), DECISION, {}))
    assert told.startswith("It failed: no. Tried: a.")


@pytest.mark.parametrize(
    "error", [EngineRejected("No."), EngineTimeout("Late."), EngineBroken("No.", hint="Mend it.")]
)
def test_what_has_another_remedy_keeps_it(error: EngineError) -> None:
    """An own hint stays; a request's fault is not the engines' to explain."""
    before = str(error)
    assert str(most_telling([error], attempts_at("a"), DECISION, {})) == before


def overflow(name: str, tokens: int) -> ContextOverflow:
    """Return an overflow as the chain hands it on."""
    return ContextOverflow("Long.", hint="Shorten.", details={"context_tokens": tokens, "deployment": name})


@pytest.mark.parametrize(
    ("error", "code", "retry_after_s"),
    [
        (EngineLoading("Loads."), "upstream_loading", LOADING_S),
        (EngineLoading("Loads.", retry_after_s=40.0), "upstream_loading", 40.0),
        (EngineBusy("Full."), "upstream_busy", 1.0),
        (EngineBusy("Full.", retry_after_s=7.0), "upstream_busy", 7.0),
        (EngineBroken("Failed."), "upstream_error", None),
        (EngineUnavailable("Refused."), "upstream_unavailable", 1.0),
        (EngineTimeout("Silent."), "upstream_timeout", None),
    ],
)
def test_states_have_answers_of_their_own(error: EngineError, code: str, retry_after_s: float | None) -> None:
    """Loading, busy, broken, gone and silent differ in code, and in whether and when a retry has a chance."""
    told = most_telling([error], attempts_at("a"), DECISION, {})
    assert (told.code, told.retry_after_s) == (code, retry_after_s)


def test_the_first_engine_to_be_free_says_when() -> None:
    """A caller need not wait for the slowest of them."""
    errors = [
        EngineBusy("Full.", retry_after_s=60.0),
        EngineBusy("Full.", retry_after_s=3.0),
        EngineBroken("x"),
    ]
    told = most_telling(errors, attempts_at("a", "b", "c"), DECISION, {LARGE: 9.0})
    assert told.retry_after_s == 3.0


def test_the_largest_window_is_named() -> None:
    """The 400 says how much would have fitted, and where."""
    attempts = [
        replace(each, deployment=d) for each, d in zip(attempts_at("", ""), (SMALL, LARGE), strict=True)
    ]
    told = most_telling([overflow("small", 256), overflow("large", 1024)], attempts, DECISION, {})
    assert (
        str(told) == "The prompt fits no context window; the largest is that of large: 1024 tokens. Shorten."
    )
    assert told.details["largest_context_tokens"] == 1024
    assert "deployment" not in told.details


def test_a_larger_window_out_of_reach_is_hinted_at() -> None:
    """Where a higher tier would have had the room, the caller is told to allow it."""
    chosen = replace(decision(SMALL), rejected=(Rejection(LARGE, "above_max_tier", "Too high."),))
    told = most_telling([overflow("small", 256)], attempts_at("small"), chosen, {})
    assert str(told.hint).endswith("or allow a higher tier.")


def test_a_window_behind_a_breaker_may_fit() -> None:
    """Nobody may say that no window fits while the largest cannot be asked."""
    told = most_telling([overflow("small", 256)], attempts_at("small"), DECISION, {LARGE: 4.0})
    assert (told.code, told.retry_after_s) == ("upstream_unavailable", 4.0)
    smaller = {replace(LARGE, context_tokens=128): 4.0}
    assert most_telling([overflow("small", 256)], [], DECISION, smaller).code == "context_length_exceeded"
