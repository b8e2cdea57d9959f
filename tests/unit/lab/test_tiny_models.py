"""Tiny models: reproducible, of clearly different sizes, and real to an engine."""

import subprocess
import sys
from pathlib import Path

import pytest

from trivet.domain.errors import ConfigError
from trivet.lab.tiny_models import TINY_SIZES, write_tiny_model


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    """A seed decides the weights."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_tiny_model(path, width=32, layers=1, heads=2, seed=seed)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()


def test_sizes(tiny_models: dict[str, Path]) -> None:
    """There is one model per default tier, each several times the one before, none above 60 MB."""
    sizes = [tiny_models[tier].stat().st_size for tier in ("light", "standard", "heavy")]
    assert list(tiny_models) == list(TINY_SIZES) == ["light", "standard", "heavy"]
    assert 3 * sizes[0] < sizes[1] < sizes[2] / 3 < 60_000_000 / 3


@pytest.mark.parametrize(("width", "heads"), [(64, 3), (6, 2)])
def test_impossible_shapes(tmp_path: Path, width: int, heads: int) -> None:
    """A shape that no engine could run is refused."""
    with pytest.raises(ConfigError):
        write_tiny_model(tmp_path / "m", width=width, layers=1, heads=heads, seed=1)


def test_extra_missing(tmp_path: Path) -> None:
    """Without the extra the error says what to install."""
    # A module of that name that cannot be imported stands before the real one on the path.
    (tmp_path / "gguf.py").write_text("raise ImportError(name='gguf')\n")
    script = (
        "from pathlib import Path; from trivet.lab.tiny_models import write_tiny_models; "
        "write_tiny_models(Path())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode != 0
    assert "trivet[llamacpp]" in done.stderr
