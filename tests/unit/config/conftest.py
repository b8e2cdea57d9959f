"""What the tests of the configuration share: a way to load one from text, flags and an environment."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trivet.config.load import Loaded, load_settings
from trivet.domain.errors import ConfigError

Load = Callable[..., Loaded]
Refuse = Callable[..., str]

TWO_TIERS = """
tiers:
  - name: small
    cost_weight: 1
    complexity: [0, 0.5]
    deployments: [{model: ollama/a}]
  - name: big
    cost_weight: 4
    complexity: [0.5, 1]
    deployments: [{model: ollama/b}]
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load from a file's text (none when None), flags and an environment; nothing real is looked at."""

    def load_from(
        text: str | None = None,
        *,
        flags: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Loaded:
        if text is not None:
            (tmp_path / "trivet.yaml").write_text(text, encoding="utf-8")
        return load_settings(flags=flags, environ=environ or {}, directory=tmp_path)

    return load_from


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """Load likewise, expect a refusal, and return what it says."""

    def refuse_to_load(*args: Any, **kwargs: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            load(*args, **kwargs)
        return str(caught.value)

    return refuse_to_load
