"""vLLM's parsers of tool calls."""

import pytest

from tests.unit.catalog.made_cards import dense_card
from tests.unit.catalog.test_placement import TABLE
from trivet.catalog.cards import load_catalog
from trivet.catalog.demand import read_demand
from trivet.catalog.emit_config import vllm_arguments
from trivet.catalog.gpus_text import read_gpus
from trivet.catalog.model_card import Catalog
from trivet.catalog.placement import make_plan
from trivet.catalog.tool_parsers import reasoning_parser, tool_parser

CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("model", "parser"),
    [
        ("qwen2.5-72b-instruct", "hermes"),
        ("qwen3-coder-30b-a3b-instruct", "qwen3_coder"),
        ("llama-3.3-70b-instruct", "llama3_json"),
        ("gpt-oss-120b", "openai"),
        ("deepseek-r1-0528-qwen3-8b", None),
        ("gemma-3-27b-it", None),
    ],
)
def test_a_model_has_its_parser(model: str, parser: str | None) -> None:
    """The longest-known name decides; a model that makes no tool calls has none."""
    assert tool_parser(CATALOG.find(model)) == parser


def test_tools_on_vllm_need_a_parser() -> None:
    """Where tools are asked for, a model whose calls vLLM cannot read is Ollama's alone."""
    plan = make_plan(
        read_gpus("H100", TABLE), read_demand(["sequences=16,tools"]), Catalog([dense_card(32)]), TABLE
    )
    assert plan.tiers == {}
    assert {one.reason for one in plan.rejected} == {"vLLM has no parser for its tool calls"}


def test_the_engine_is_told_its_parser() -> None:
    """Every vLLM tier of a plan with tools is started with automatic tool choice."""
    plan = make_plan(read_gpus("2xH100", TABLE), read_demand(["sequences=8,tools"]), CATALOG, TABLE)
    for tier in plan.tiers.values():
        assert tier.variant.engine == "vllm"
        assert "--enable-auto-tool-choice" in vllm_arguments(tier)


def test_thinking_is_parted_from_the_answer() -> None:
    """Each card that thinks and that vLLM runs has a parser, which the engine is told; others have none."""
    for card in CATALOG.cards:
        on_vllm = any(variant.engine == "vllm" for variant in card.variants)
        thinks = "thinking" in card.capabilities and on_vllm
        assert (reasoning_parser(card) is not None) == thinks, card.id
    assert reasoning_parser(CATALOG.find("qwen3-4b-thinking-2507")) == "deepseek_r1"
    plan = make_plan(read_gpus("H100", TABLE), read_demand(pins=["heavy=Qwen/Qwen3-32B-FP8"]), CATALOG, TABLE)
    assert vllm_arguments(plan.tiers["heavy"])[-2:] == ["--reasoning-parser", "qwen3"]
