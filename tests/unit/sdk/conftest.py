"""Settings that the public classes are tested with."""

from typing import Any, Protocol

import pytest

from trivet.config.settings import Settings

SHAPES = {"light": (1.0, (0.0, 0.3)), "standard": (3.0, (0.3, 0.7)), "heavy": (10.0, (0.7, 1.0))}


class MakeSettings(Protocol):
    """What the fixture `make_settings` gives."""

    def __call__(self, *, output: int = 16, **sections: Any) -> Settings:
        """Return settings; the tiers' names as keywords give their deployments, the rest are sections."""
        ...


@pytest.fixture(scope="session")
def make_settings() -> MakeSettings:
    """Give a maker of settings with three tiers; a tier without deployments has one where nobody listens."""

    def make(*, output: int = 16, **sections: Any) -> Settings:
        tiers = [
            {
                "name": name,
                "cost_weight": weight,
                "complexity": complexity,
                "max_output_tokens": output,
                "deployments": sections.pop(
                    name, [{"model": f"openai/{name}-model", "url": "http://127.0.0.1:9"}]
                ),
            }
            for name, (weight, complexity) in SHAPES.items()
        ]
        return Settings.model_validate({"tiers": tiers, **sections})

    return make
