"""A fake NVML, compiled once, and trees of proc and sys."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.doubles.nvml import FakeMachine, compile_nvml

Tree = Callable[[Mapping[str, str]], Path]


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the compiled library."""
    return compile_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(fake_library: Path, tmp_path: Path) -> FakeMachine:
    """Give a machine whose NVML answers what the test says."""
    return FakeMachine(fake_library, tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Give a maker of file trees: path to text; a text that begins with `->` is a link."""

    def make(files: Mapping[str, str]) -> Path:
        root = tmp_path / "root"
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                continue
            if text.startswith("->"):
                path.symlink_to(text.removeprefix("->"))
            else:
                path.write_text(text)
        return root

    return make
