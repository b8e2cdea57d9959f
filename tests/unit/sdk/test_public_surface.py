"""What `import trivet` offers, and what it costs."""

import importlib
import subprocess
import sys

import pytest

import trivet

NAMES = [
    "BudgetManager",
    "ComplexityEstimator",
    "FallbackChain",
    "LLMClient",
    "ModelMetricsCollector",
    "ModelRouter",
    "ModelTier",
    "RoutingDecision",
    "Trivet",
    "__version__",
    "get_settings",
]


def run(script: str) -> str:
    """Run a script in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_surface_is_exact_and_sorted() -> None:
    """Exactly these names are public, in order."""
    assert sorted(NAMES) == NAMES
    assert trivet.__all__ == NAMES
    assert dir(trivet) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name: str) -> None:
    """Each public name resolves, to the same object each time."""
    assert getattr(trivet, name) is getattr(trivet, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as it does in any module."""
    with pytest.raises(AttributeError, match="ModelRooter"):
        getattr(trivet, "ModelRooter")  # noqa: B009 - the type checker knows that it is not there


def test_star_import() -> None:
    """`from trivet import *` brings all of it."""
    assert run("from trivet import *; print(ModelRouter.__name__, get_settings.__name__)") == (
        "ModelRouter get_settings"
    )


def test_import_loads_no_library() -> None:
    """`import trivet` loads the standard library and its own version, nothing else."""
    script = (
        "import sys, trivet; own = {n for n in sys.modules if n.startswith('trivet')}; "
        "libraries = {'aiohttp', 'fastapi', 'httpx', 'litellm', 'openai', 'pydantic', 'sqlalchemy'}; "
        "print(sorted(own), sorted(libraries & set(sys.modules)))"
    )
    assert run(script) == "['trivet', 'trivet.version'] []"


def test_no_name_loads_litellm_or_the_web_framework() -> None:
    """Asking for the classes loads no LiteLLM, no openai client and no web framework."""
    script = (
        "import sys; from trivet import *; "
        "print(sorted({'litellm', 'fastapi', 'openai', 'ollama', 'typer'} & set(sys.modules)))"
    )
    assert run(script) == "[]"


def test_classes_say_what_they_are() -> None:
    """Every public class and function has a docstring."""
    undocumented = [name for name in NAMES if name != "__version__" and not getattr(trivet, name).__doc__]
    assert undocumented == []
    assert importlib.import_module("trivet.version").__version__ == trivet.__version__
