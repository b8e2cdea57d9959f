"""Demands as people write them."""

from typing import Any

import pytest

from trivet.catalog.demand import (
    DEFAULT_CONTEXT_TOKENS,
    DEFAULT_SEQUENCES,
    ENGINES,
    TIERS,
    demand_texts,
    read_demand,
)
from trivet.domain.errors import ConfigError


def test_the_default_is_the_same_for_every_tier() -> None:
    """Without options every tier is asked for the documented default."""
    demand = read_demand()
    assert tuple(demand.tiers) == TIERS == ("light", "standard", "heavy")
    for tier in TIERS:
        assert (demand[tier].context_tokens, demand[tier].sequences) == (
            DEFAULT_CONTEXT_TOKENS,
            DEFAULT_SEQUENCES,
        )
        assert demand[tier].capabilities == frozenset()


def test_a_text_is_for_all_tiers_or_for_one() -> None:
    """Later texts win; what is said of one tier leaves the others alone."""
    demand = read_demand(["context=16384,sequences=8,tools", "heavy:context=32k,vision"])
    assert [demand[tier].context_tokens for tier in TIERS] == [16384, 16384, 32768]
    assert [demand[tier].sequences for tier in TIERS] == [8, 8, 8]
    assert demand["heavy"].capabilities == {"tools", "vision"}
    assert demand["light"].capabilities == {"tools"}


def test_pins_and_families() -> None:
    """A pin is for one tier, families are for all; several may share an option."""
    demand = read_demand(pins=["heavy=qwen2.5:72b"], families=["Qwen,llama", "gemma"])
    assert demand["heavy"].pin == "qwen2.5:72b"
    assert demand["light"].pin is None
    assert demand["light"].families == ("qwen", "llama", "gemma")


def test_engines_can_be_left_out() -> None:
    """By default all that plans know; another name is refused."""
    assert read_demand()["heavy"].engines == ENGINES
    assert read_demand(engines=["Ollama"])["heavy"].engines == {"ollama"}
    with pytest.raises(ConfigError, match="ollama, vllm"):
        read_demand(engines=["llamafile"])


@pytest.mark.parametrize(
    "text",
    [
        "context=",
        "context=0",
        "context=-1",
        "context=1e6",
        "sequences=5000",
        "fast",
        "tools=yes",
        "medium:context=1",
        "a:b:c",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    """The error names the part at fault and what can be written instead."""
    with pytest.raises(ConfigError) as raised:
        read_demand([text])
    assert "context=16384" in str(raised.value)


@pytest.mark.parametrize("pin", ["heavy", "heavy=", "=x", "huge=x"])
def test_a_pin_names_a_tier_and_a_model(pin: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigError):
        read_demand(pins=[pin])


def test_a_file_says_the_same_in_more_lines() -> None:
    """What a demands file says is read by the reader of the option."""
    document = {
        "context": 16384,
        "capabilities": ["tools"],
        "tiers": {"heavy": {"context": 32768, "sequences": 4, "capabilities": ["vision"]}},
    }
    texts = demand_texts(document)
    assert texts == ["context=16384,tools", "heavy:context=32768,sequences=4,vision"]
    assert read_demand(texts) == read_demand(
        ["context=16384,tools", "heavy:context=32768,sequences=4,vision"]
    )


@pytest.mark.parametrize("document", [None, [], "context", {"tiers": []}, {"tiers": {"heavy": 3}}])
def test_a_file_of_another_shape_is_refused(document: Any) -> None:
    """A demands file is a mapping of mappings."""
    with pytest.raises(ConfigError):
        demand_texts(document)
