"""Prices: exact, from the operator's table first, then LiteLLM's list; free at home; unknown is told."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from trivet.domain.clock import ManualClock
from trivet.domain.errors import ConfigError
from trivet.domain.prices import FREE, UNKNOWN, Price
from trivet.domain.tiers import Deployment, EngineKind, Tier
from trivet.engines.prices import PriceTable, price_of

TIER = Tier(name="cloud", order=0, cost_weight=1, complexity_low=0, complexity_high=1)


def deployment(model: str, *, engine: EngineKind = "litellm", local: bool = False) -> Deployment:
    """Return a deployment of a model."""
    return Deployment(
        name=f"my-{model}",
        tier=TIER,
        engine=engine,
        model=model,
        transport="litellm",
        url=None,
        context_tokens=1000,
        slots=1,
        devices=(),
        local=local,
    )


def table(path: Path | None, *deployments: Deployment, clock: ManualClock | None = None) -> PriceTable:
    """Return the prices of some deployments."""
    return PriceTable(path, deployments, clock or ManualClock())


def test_litellm_knows_public_models() -> None:
    """Its list is found without importing it: a public model has a price, by each way of writing it."""
    for written in (
        deployment("openai/gpt-4o-mini"),
        deployment("gpt-4o-mini", engine="openai"),
        deployment("gpt-4o-mini"),
    ):
        price = table(None, written).of(written)
        assert price.prompt == Fraction(15, 100)
        assert price.completion == Fraction(60, 100)
        assert price.cached_prompt == Fraction(75, 1000)


def test_the_list_is_read_without_litellm() -> None:
    """Reading prices does not cost LiteLLM's start."""
    script = "import sys, trivet.engines.prices as p; p._shipped(); print('litellm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_another_providers_price_is_not_taken() -> None:
    """A model of a provider that the list does not name has no price, although the bare name has one."""
    foreign = deployment("somebody/gpt-4o-mini")
    with capture_logs() as lines:
        prices = table(None, foreign)
        assert prices.of(foreign) == UNKNOWN
        assert prices.of(foreign) == UNKNOWN
    assert [line["event"] for line in lines] == ["pricing.unknown"]


def test_what_runs_at_home_is_free() -> None:
    """Local models cost nothing, whatever a list says of their name."""
    at_home = deployment("gpt-4o-mini", local=True)
    assert table(None, at_home).of(at_home) == FREE


def test_long_prompts_have_their_price() -> None:
    """LiteLLM's `above_200k` fields become a price of their own; what they leave out stays as it was."""
    price = price_of(
        {
            "input_cost_per_token": 1.25e-06,
            "output_cost_per_token": 1e-05,
            "input_cost_per_token_above_200k_tokens": 2.5e-06,
            "output_cost_per_token_above_200k_tokens": 1.5e-05,
        }
    )
    assert price is not None
    assert price.at(200_000).prompt == Fraction(125, 100)
    assert price.at(200_001) == Price(prompt=Fraction(5, 2), completion=Fraction(15))


def test_the_operators_table_goes_first_and_is_read_again(tmp_path: Path) -> None:
    """An entry by the deployment's name or the model's; a change counts within a second, a fault never."""
    path, clock = tmp_path / "prices.json", ManualClock()
    cloud, at_home = deployment("gpt-4o-mini"), deployment("qwen", local=True)
    path.write_text(
        json.dumps(
            {
                "gpt-4o-mini": {"input_usd_per_million": 1, "output_usd_per_million": 2.5},
                "my-qwen": {"input_cost_per_token": 1e-7, "output_cost_per_token": 0},
            }
        )
    )
    prices = table(path, cloud, at_home, clock=clock)
    assert prices.of(cloud) == Price(prompt=Fraction(1), completion=Fraction(5, 2))
    assert prices.of(at_home) == Price(prompt=Fraction(1, 10))

    path.write_text(json.dumps({"gpt-4o-mini": {"input_usd_per_million": 7, "output_usd_per_million": 8}}))
    assert prices.of(cloud).prompt == 1
    clock.advance(1)
    assert prices.of(cloud).prompt == 7
    assert prices.of(at_home) == FREE

    for text in ("{", '{"gpt-4o-mini": {"input_usd_per_million": -1, "output_usd_per_million": 1}}', "[1]"):
        path.write_text(text)
        clock.advance(1)
        with capture_logs() as lines:
            assert prices.of(cloud).prompt == 7
        assert [line["event"] for line in lines] == ["pricing.table_refused"]
    path.unlink()
    clock.advance(1)
    assert prices.of(cloud).prompt == 7


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"m": 1}',
        '{"m": {"input_usd_per_million": 1}}',
        '{"m": {"input_usd_per_million": "much", "output_usd_per_million": 1}}',
        '{"m": {"input_usd_per_million": true, "output_usd_per_million": 1}}',
        '{"m": {"input_usd_per_million": NaN, "output_usd_per_million": 1}}',
    ],
)
def test_a_table_that_says_no_price_is_refused(tmp_path: Path, text: str) -> None:
    """At the start a table that cannot be used is an error, with the entry at fault."""
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        table(path)


def test_a_table_that_is_named_must_be_there(tmp_path: Path) -> None:
    """Only the default place may be empty."""
    with pytest.raises(ConfigError):
        table(tmp_path / "absent.json")
