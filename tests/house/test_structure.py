"""The house's own rules: floors and fences, sizes, names, no patching."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "trivet").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
BROAD_EXCEPTS_MAX = 6
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc", "manager", "handler"}


def name_of(path: Path) -> str:
    """Return a path's place in the repository."""
    return str(path.relative_to(ROOT))


def test_import_contract() -> None:
    """Floors, fences and no circles, as pyproject.toml states them."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_and_functions_are_small(path: Path) -> None:
    """A module fits in the head, a function on a screen."""
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES_MAX
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > FUNCTION_LINES_MAX]
    assert long == []


def test_no_drawers() -> None:
    """No room or module has a name that could hold anything."""
    parts = {part.removesuffix(".py") for path in SOURCES for part in path.relative_to(ROOT / "src").parts}
    assert parts & BANNED_NAMES == set()


def test_few_broad_excepts() -> None:
    """A broad except that raises nothing, neither the same nor a translated error, is rare."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if broad and not raises:
                found.append(f"{name_of(path)}:{node.lineno}")
    assert len(found) <= BROAD_EXCEPTS_MAX, found


def test_nothing_is_patched() -> None:
    """Tests use real parts and runnable doubles, never patching."""
    words = re.compile("monkey" + "patch|mock[.]|Magic" + "Mock|@" + "patch")
    assert [name_of(path) for path in TESTS if words.search(path.read_text())] == []


def test_import_is_light() -> None:
    """`import trivet` loads neither LiteLLM nor the web framework nor the database."""
    script = (
        "import sys, trivet; "
        "print(sorted({'litellm', 'fastapi', 'sqlalchemy', 'aiohttp', 'typer', 'pynvml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_quick() -> None:
    """`trivet --version` costs little CPU: it imports no part that it does not need."""
    script = (
        "import resource, subprocess, sys; "
        "subprocess.run([sys.executable, '-m', 'trivet', '--version'], check=True); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 0.5
