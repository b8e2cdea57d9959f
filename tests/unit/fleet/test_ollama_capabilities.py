"""What Ollama says of a model becomes what its deployment can do."""

import pytest

from tests.contract.calls import deployment_of
from trivet.engines.ollama import ShownModel
from trivet.fleet.ollama_model import adopt


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"completion", "tools"}, {"tools"}),
        ({"embedding"}, {"embeddings"}),
        ({"embedding", "completion", "vision"}, {"embeddings", "chat", "vision"}),
    ],
)
def test_a_model_that_makes_vectors_is_known_as_such(told: set[str], expected: set[str]) -> None:
    """One that does nothing else is never asked to chat."""
    deployment = deployment_of("http://127.0.0.1:1", "m", engine="ollama", transport="litellm")
    shown = ShownModel(512, frozenset(told), parameter_size=None, quantisation=None)
    adopted = adopt(deployment, shown, pinned=False)
    assert adopted.capabilities == expected
    assert adopt(deployment, shown, pinned=True).capabilities == deployment.capabilities
