"""The plans that ship: what the catalog gives on the classic machines."""

from collections.abc import Callable

import pytest

from trivet.catalog.cards import load_catalog
from trivet.catalog.demand import TIERS, read_demand
from trivet.catalog.forms import bits_of
from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.gpus_text import read_gpus
from trivet.catalog.objective import precision_factor
from trivet.catalog.placement import make_plan
from trivet.catalog.plan import Plan

TABLE = load_gpu_table()
CATALOG = load_catalog()
EIGHT_BITS = 8.0


def on(text: str) -> Plan:
    """Return the plan of a machine at the default demand."""
    return make_plan(read_gpus(text, TABLE), read_demand(), CATALOG, TABLE)


def heavy_b(plan: Plan) -> int:
    """Return HEAVY's parameters in 10^9, rounded as in models' names."""
    return round(plan.tiers["heavy"].card.total_params / 1e9)


@pytest.mark.parametrize(
    ("gpus", "enough"),
    [
        ("RTX4060", lambda plan: heavy_b(plan) >= 7),
        ("RTX3070", lambda plan: heavy_b(plan) >= 7),
        ("RTX3060-12GB", lambda plan: heavy_b(plan) >= 12),
        ("RTX4070", lambda plan: heavy_b(plan) >= 12),
        ("RTX5070", lambda plan: heavy_b(plan) >= 12),
        ("RTX4090", lambda plan: heavy_b(plan) >= (27 if plan.mode == "swap" else 14)),
        ("RTX3090", lambda plan: heavy_b(plan) >= (27 if plan.mode == "swap" else 14)),
        ("A10G", lambda plan: heavy_b(plan) >= (27 if plan.mode == "swap" else 14)),
        ("L4", lambda plan: heavy_b(plan) >= (27 if plan.mode == "swap" else 14)),
        ("L40S", lambda plan: heavy_b(plan) >= 32 and plan.mode == "resident"),
        ("RTXA6000", lambda plan: heavy_b(plan) >= 32 and plan.mode == "resident"),
        ("RTX6000Ada", lambda plan: heavy_b(plan) >= 32 and plan.mode == "resident"),
        ("A40", lambda plan: heavy_b(plan) >= 32 and plan.mode == "resident"),
        ("H100", lambda plan: heavy_b(plan) >= 70),
        ("A100-80GB", lambda plan: heavy_b(plan) >= 70),
        *(
            (
                gpus,
                lambda plan: heavy_b(plan) >= 70 and bits_of(plan.tiers["heavy"].variant) >= EIGHT_BITS,
            )
            for gpus in ("2xH100", "2xA100-80GB", "2xH100-NVL")
        ),
    ],
)
def test_heavy_is_no_smaller_than_the_memory_allows(gpus: str, enough: Callable[[Plan], bool]) -> None:
    """The least HEAVY at the default demand, 4-bit allowed."""
    plan = on(gpus)
    assert enough(plan), (plan.mode, plan.tiers["heavy"].card.id, plan.tiers["heavy"].variant)


def test_every_size_of_gpu_gets_a_plan() -> None:
    """From 8 GB on each tier has a model, LIGHT at most a third of HEAVY's active parameters, and all fit."""
    for spec in {spec.memory_gib: spec for spec in TABLE.specs}.values():
        plan = on(spec.name)
        if spec.memory_gib >= 8:
            assert plan.unserved == (), spec.name
        if "light" in plan.tiers and "heavy" in plan.tiers:
            light, heavy = plan.tiers["light"].card, plan.tiers["heavy"].card
            assert 3 * light.active_params <= heavy.active_params, spec.name
        for device in plan.devices:
            assert device.used_bytes + device.margin_bytes <= device.usable_bytes, spec.name


def test_tiers_are_in_order() -> None:
    """On the classic machines every tier costs more for each token than the one below it."""
    for gpus in ("RTX4060", "2xRTX4090", "8xH100", "cpu-16gb"):
        active = [on(gpus).tiers[tier].card.active_params for tier in TIERS]
        assert active == sorted(active), gpus


def test_four_bits_cost_something() -> None:
    """A precision that a model was not made in is worth less, the fewer bits the less."""
    factors = [precision_factor(bits, "q") for bits in (16.0, 8.5, 6.6, 5.7, 4.8, 3.9, 2.6)]
    assert factors == sorted(factors, reverse=True)
    assert factors[1] == 1.0 > factors[4]
    assert precision_factor(4.25, "mxfp4") == 1.0


def test_a_checkpoint_that_was_padded_splits() -> None:
    """Qwen padded the 4-bit 72 B to a feed-forward size of 29696: two L40S share it, 231 groups would not."""
    heavy = make_plan(
        read_gpus("2xL40S", TABLE), read_demand(pins=["heavy=qwen2.5-72b-instruct"]), CATALOG, TABLE
    ).tiers["heavy"]
    assert (heavy.variant.ref, len(heavy.devices)) == ("Qwen/Qwen2.5-72B-Instruct-AWQ", 2)


def test_gpus_without_nvlink_share_no_model_that_one_of_them_holds() -> None:
    """Each layer would wait for PCIe twice, for cache that nobody asked for."""
    demand = read_demand(["context=16384,sequences=8,tools"])
    heavy = make_plan(read_gpus("2xRTX4090", TABLE), demand, CATALOG, TABLE).tiers["heavy"]
    assert (heavy.card.id, len(heavy.devices)) == ("gpt-oss-20b", 1)


def test_nobody_waits_for_thoughts_on_a_cpu() -> None:
    """A model that always thinks first is no HEAVY at ten tokens a second; without vLLM no hint at it."""
    plan = on("cpu-64gb")
    assert plan.tiers["heavy"].card.id == "qwen3-next-80b-a3b-instruct"
    (reason,) = (
        one.reason
        for one in plan.rejected
        if one.model == "qwen3-next-80b-a3b-thinking" and one.tier == "heavy"
    )
    assert "always thinks" in reason
    assert not any("sequences=8" in note for note in plan.notes)
    assert "deepseek-r1" in on("8xH200").tiers["heavy"].card.id


def test_many_sequences_on_a_small_gpu_are_not_sent_to_the_cpu() -> None:
    """Where vLLM finds no room for three tiers Ollama serves them on the GPU, and that is said."""
    demand = read_demand(["sequences=8"])
    for gpus, engine in (("RTX4060", "ollama"), ("RTX4090", "vllm"), ("L40S", "vllm")):
        plan = make_plan(read_gpus(gpus, TABLE), demand, CATALOG, TABLE)
        assert plan.mode != "cpu"
        assert {tier.variant.engine for tier in plan.tiers.values()} == {engine}
        assert any("vLLM finds too little room" in note for note in plan.notes) == (engine == "ollama")
