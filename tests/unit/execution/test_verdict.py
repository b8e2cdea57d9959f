"""What a caller is told when every candidate failed."""

import pytest

from tests.unit.routing.parts import LIGHT, deployment
from trivet.domain.errors import EngineBroken, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from trivet.domain.outcomes import Attempt
from trivet.execution.verdict import most_telling


def attempts_at(*names: str) -> list[Attempt]:
    """Return ended attempts."""
    return [
        Attempt(attempt_id=name, deployment=deployment(name, LIGHT), dispatched_ns=0, error_code="x")
        for name in names
    ]


@pytest.mark.parametrize("error", [EngineUnavailable("It refuses."), EngineBroken("It failed.")])
def test_a_dead_engine_is_named(error: EngineError) -> None:
    """Which engines were tried, and where to look."""
    told = str(most_telling([error], attempts_at("vllm/a", "ollama/b", "vllm/a"), None))
    assert told.endswith("Tried: vllm/a, ollama/b. `trivet doctor` shows what each engine says.")


@pytest.mark.parametrize(
    "error", [EngineRejected("No."), EngineTimeout("Late."), EngineBroken("No.", hint="Mend it.")]
)
def test_what_has_another_remedy_keeps_it(error: EngineError) -> None:
    """An own hint stays; a request's fault is not the engines' to explain."""
    before = str(error)
    assert str(most_telling([error], attempts_at("a"), None)) == before
