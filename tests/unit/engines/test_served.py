"""Finding the model that is meant among those that are served."""

import pytest

from trivet.domain.errors import ConfigError
from trivet.engines.protocol import ServedModel
from trivet.engines.served import match_model

OTHER = "mistralai/Mistral-7B-Instruct-v0.3"


@pytest.mark.parametrize(
    ("wanted", "served"),
    [
        ("qwen2.5:72b", "Qwen/Qwen2.5-72B-Instruct"),
        ("qwen2.5:72b", "Qwen/Qwen2.5-72B-Instruct-AWQ"),
        ("qwen2.5:72b-instruct-q4_K_M", "Qwen/Qwen2.5-72B-Instruct"),
        ("qwen2.5-72b", "/models/Qwen2.5_72B.gguf"),
        ("gemma2:9b", "google/gemma-2-9b-it"),
        ("llama3.1:8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("LLAMA-3.1-8B-INSTRUCT", "meta-llama/Llama-3.1-8B-Instruct"),
        ("phi4:latest", "microsoft/phi-4"),
        ("tiny-light", "tiny-light"),
    ],
)
def test_match_by_name(wanted: str, served: str) -> None:
    """Organisation, separators, case, tuning and quantisation may differ."""
    models = [ServedModel(OTHER), ServedModel(served, 4096)]
    assert match_model(wanted, models) == ServedModel(served, 4096)


def test_exact_name_wins() -> None:
    """An exact name is taken although others normalise to it."""
    models = [ServedModel("qwen2.5-7b-instruct"), ServedModel("qwen2.5:7b")]
    assert match_model("qwen2.5:7b", models).name == "qwen2.5:7b"


def test_name_as_written_wins_over_variants() -> None:
    """Between variants, the one that says just what was asked for is taken."""
    models = [ServedModel("Qwen/Qwen2.5-7B-Instruct"), ServedModel("Qwen/Qwen2.5-7B")]
    assert match_model("qwen2.5:7b", models).name == "Qwen/Qwen2.5-7B"


def test_the_only_one_is_taken() -> None:
    """A server with one model means that one, whatever it calls it."""
    assert match_model("qwen2.5:72b", [ServedModel("default")]) == ServedModel("default")


@pytest.mark.parametrize(
    "served",
    [[], ["a", "b"], ["Qwen2.5-7B-Instruct-AWQ", "Qwen2.5-7B-Instruct-GPTQ"], ["qwen2.5-72b", "llama"]],
)
def test_no_single_match(served: list[str]) -> None:
    """Without one match the error lists what is served."""
    with pytest.raises(ConfigError) as caught:
        match_model("qwen2.5:7b", [ServedModel(name) for name in served])
    assert all(name in str(caught.value) for name in served)
