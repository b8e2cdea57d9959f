"""What holds for every plan, whatever the machine and the demand."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.counts import scaled
from tests.unit.catalog.made_cards import dense_card, made_catalog, mixture_card
from trivet.catalog.demand import TIERS, Demand, read_demand
from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.gpus_text import read_gpus
from trivet.catalog.model_card import Catalog
from trivet.catalog.objective import LIGHT_SHARE_MAX
from trivet.catalog.placement import make_plan
from trivet.catalog.plan import Plan
from trivet.catalog.sizing import LAYER_S, UTILIZATION_MAX, Load, Sizer
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB, Gpu, Host, Inventory, InventoryState

TABLE = load_gpu_table()
CATALOG = Catalog(
    [*(dense_card(size) for size in (0.5, 1.5, 4, 8, 14, 32, 70)), mixture_card(30), mixture_card(106)]
)
SIZER = Sizer()
"""One for all cases: the same few models are asked about again and again."""
KINDS = (
    ("NVIDIA GeForce RTX 3070", 8),
    ("NVIDIA GeForce RTX 3060", 12),
    ("NVIDIA GeForce RTX 4090", 24),
    ("NVIDIA L40S", 48),
    ("NVIDIA A100-SXM4-80GB", 80),
    ("NVIDIA H100 80GB HBM3", 80),
    ("Tesla V100-SXM2-32GB", 32),
    ("Some GPU that nobody knows", 20),
)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    """Return a machine with up to eight GPUs of up to three kinds, some of them partly used by others."""
    gpus: list[Gpu] = []
    for name, memory_gib in draw(st.lists(st.sampled_from(KINDS), max_size=3, unique=True)):
        for _ in range(draw(st.integers(1, 4))):
            if len(gpus) == 8:
                break
            total = memory_gib * GIB
            others = draw(st.sampled_from([0, 0, 0, 1, 3, 10, 19])) * GIB
            gpus.append(
                Gpu(
                    uuid=f"GPU-{len(gpus)}",
                    name=name,
                    total_bytes=total,
                    used_bytes=others,
                    others_bytes=min(others, total),
                )
            )
    ram = draw(st.sampled_from([4, 16, 64, 256])) * GIB
    return Inventory(
        host=Host(ram_total_bytes=ram, ram_available_bytes=ram, cpu_cores=8),
        gpus=tuple(gpus),
        state=InventoryState.OK if gpus else InventoryState.NO_GPU,
    )


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    """Return a demand, the same for all tiers or with one of its own for HEAVY."""
    texts = [f"context={draw(st.sampled_from([2048, 8192, 32768]))}"]
    texts.append(f"sequences={draw(st.sampled_from([1, 2, 8]))}")
    if draw(st.booleans()):
        texts.append(f"heavy:context={draw(st.sampled_from([8192, 131072]))},sequences=4")
    if draw(st.booleans()):
        texts.append("tools")
    return read_demand(texts)


def planned(inventory: Inventory, demand: Demand | None = None, catalog: Catalog = CATALOG) -> Plan:
    """Return the plan of a machine."""
    return make_plan(inventory, demand or read_demand(), catalog, TABLE, sizer=SIZER)


def on(text: str, *texts: str, **options: Any) -> Plan:
    """Return the plan of a described machine."""
    return planned(read_gpus(text, TABLE), read_demand(texts, **options))


def grown(inventory: Inventory, how: str, amount: int) -> Inventory:
    """Return the same machine with more memory."""
    if how == "gpu" and inventory.gpus and len(inventory.gpus) < 8:
        first = inventory.gpus[0]
        more = dataclasses.replace(first, uuid="GPU-more", others_bytes=0, used_bytes=0)
        return dataclasses.replace(inventory, gpus=(*inventory.gpus, more))
    if how == "others":
        gpus = tuple(
            dataclasses.replace(gpu, others_bytes=max(0, (gpu.others_bytes or 0) - amount * GIB // 4))
            for gpu in inventory.gpus
        )
        return dataclasses.replace(inventory, gpus=gpus)
    # On every GPU, as a larger card of the kind would have it: equal ones stay equal.
    gpus = tuple(
        dataclasses.replace(gpu, total_bytes=(gpu.total_bytes or 0) + amount * GIB) for gpu in inventory.gpus
    )
    host = dataclasses.replace(
        inventory.host, ram_available_bytes=inventory.host.ram_available_bytes + amount * GIB
    )
    return dataclasses.replace(inventory, gpus=gpus, host=host)


def check(plan: Plan) -> None:
    """Recompute a plan from its own JSON."""
    document = plan.as_json()
    tiers, gpus = document["tiers"], {gpu["name"]: gpu for gpu in document["gpus"]}
    assert len(gpus) == len(document["gpus"])
    for name, gpu in gpus.items():
        peak = max(
            (
                sum(tiers[tier]["footprint"]["total_gib"] for tier in group if name in tiers[tier]["gpus"])
                for group in document["groups"]
            ),
            default=0.0,
        )
        assert gpu["used_gib_peak"] == pytest.approx(peak, abs=1e-3)
        assert gpu["used_gib_peak"] <= gpu["usable_gib"] - gpu["margin_gib"] + 1e-3
        assert gpu["free_gib_peak"] == pytest.approx(gpu["usable_gib"] - peak, abs=1e-3)
        # With more than 0.95 of a GPU people saw vLLM run out of memory after its start.
        for group in document["groups"]:
            shares = (tiers[tier]["gpu_memory_utilization"] for tier in group if name in tiers[tier]["gpus"])
            assert sum(share or 0.0 for share in shares) <= UTILIZATION_MAX
    assert {tier for group in document["groups"] for tier in group} == set(tiers)
    for name, tier in tiers.items():
        assert len(tier["gpus"]) == tier["tp"]
        assert tier["tp"] in (1, 2, 4, 8)
        assert len({gpus[gpu]["kind"] for gpu in tier["gpus"]}) == 1
        assert tier["context_tokens"] == plan.demand[name].context_tokens
        assert tier["sequences"] >= plan.demand[name].sequences
        assert plan.demand[name].capabilities <= plan.tiers[name].card.capabilities
        assert tier["footprint"]["fits"]
        # The cache holds what was asked for, also after the utilisation was rounded.
        assert tier["footprint"]["kv_tokens"] >= tier["context_tokens"] * tier["sequences"]
        if tier["engine"] == "ollama":
            assert tier["tp"] == 1
            spec = plan.tiers[name].devices[0].spec
            # Where vLLM cannot run, or all on vLLM would be much less, Ollama does what it can.
            alone = {one["engine"] for one in tiers.values()} == {"ollama"}
            assert tier["sequences"] <= 4 or alone or (spec.compute_capability or (0, 0)) < (7, 5)
    if "light" in tiers and "heavy" in tiers:
        light, heavy = plan.tiers["light"].card, plan.tiers["heavy"].card
        assert light.active_params <= LIGHT_SHARE_MAX * heavy.active_params
    assert document["mode"] == (
        "cpu" if "CPU" in gpus else "swap" if len(document["groups"]) > 1 else "resident"
    )
    used = {tier["model"] for tier in tiers.values()}
    reasons = {(one["tier"], one["model"]) for one in document["rejected"]}
    for name in TIERS:
        everyone = {card.id for card in CATALOG.cards}
        assert {model for tier, model in reasons if tier == name} >= everyone - used
    assert all(one["reason"] for one in document["rejected"])


@settings(max_examples=scaled(500))
@given(
    inventory=inventories(),
    demand=demands(),
    how=st.sampled_from(["gpu", "memory", "others"]),
    amount=st.integers(1, 40),
)
def test_no_plan_exceeds_a_gpu_and_more_memory_never_lowers_the_objective(
    inventory: Inventory, demand: Demand, how: str, amount: int
) -> None:
    """Usable memory less the margin holds every plan, at any moment, and its parts agree.

    With another GPU, larger GPUs, or less use by others the plan is never worth less.
    """
    before, after = planned(inventory, demand), planned(grown(inventory, how, amount), demand)
    check(before)
    check(after)
    assert after.objective >= before.objective - 1e-9


def test_a_plan_is_the_same_every_time() -> None:
    """Nothing is drawn by lot."""
    first, second = (
        make_plan(read_gpus("2xRTX4090,1xH100", TABLE), read_demand(), made_catalog("a", "b"), TABLE)
        for _ in range(2)
    )
    assert first.as_json() == second.as_json()


def test_more_sequences_than_ollama_takes_go_to_vllm() -> None:
    """Ollama is for single GPUs and a few sequences."""
    assert {tier.variant.engine for tier in on("L40S", "sequences=8,context=4096").tiers.values()} == {"vllm"}
    assert {tier.variant.engine for tier in on("RTX3090").tiers.values()} == {"ollama"}


@pytest.mark.parametrize("engine", ["ollama", "vllm"])
def test_only_the_engines_that_there_are_are_planned(engine: str) -> None:
    """Whatever suits the GPU and the sequences: an engine that is not there is not used."""
    for gpus in ("RTX3090", "L40S", "8xH100"):
        for texts in ((), ("sequences=8",)):
            plan = on(gpus, *texts, engines=[engine])
            assert {tier.variant.engine for tier in plan.tiers.values()} == {engine}
            assert plan.unserved == ()


def test_one_model_over_several_gpus_is_vllms() -> None:
    """What fits no single GPU is split over equal ones."""
    heavy = on("4xRTX3090", pins=["heavy=made-70b"]).tiers["heavy"]
    assert heavy.variant.engine == "vllm"
    assert len(heavy.devices) in (2, 4)


def test_vllm_engines_leave_a_twentieth_of_a_large_gpu() -> None:
    """However many of them fill it."""
    pins = ["heavy=made-70b", "standard=made-14b", "light=made-4b"]
    for gpus in ("H100", "H200", "2xH100"):
        check(on(gpus, "sequences=8", pins=pins))


def test_depth_bounds_small_models_on_fast_gpus() -> None:
    """A layer takes its time however few bytes it has; a sum over all GPUs takes more through PCIe."""
    tiers = on("8xH100", pins=["light=made-1.5b"]).tiers
    card = tiers["light"].card
    assert tiers["light"].tokens_per_s < 1 / (card.architecture.layers * LAYER_S)
    big, load = CATALOG.find("made-32b"), Load(context_tokens=8192, sequences=8)
    awq = next(variant for variant in big.variants if variant.quant == "awq")
    one, two = (SIZER.need(big, awq, TABLE.find("L40S"), tp, load).tokens_per_s for tp in (1, 2))
    assert one < two < 2 * one


def test_what_is_in_memory_together_anyway_takes_no_turns() -> None:
    """A pinned HEAVY that finds no room leaves two tiers that both fit: resident, not one swap group."""
    pins = ["heavy=made-32b", "standard=made-14b", "light=made-4b"]
    plan = on("RTX5090", "sequences=8,context=4096", pins=pins, engines=["vllm"])
    assert plan.unserved == ("heavy",)
    assert (plan.mode, plan.groups) == ("resident", (("light", "standard"),))
    assert not any(tier.swapped for tier in plan.tiers.values())


def test_unequal_gpus_never_share_a_model() -> None:
    """A 24 GB card and a 48 GB card carry no model together."""
    for tier in on("RTX3090,L40S").tiers.values():
        assert len(tier.devices) == 1


def test_a_pin_wins_over_everything_but_memory() -> None:
    """The pinned model serves its tier although a better one fits, and although it saves nothing."""
    plan = on("H100", pins=["light=made-14b", "heavy=made-32b"])
    assert plan.tiers["light"].card.id == "made-14b"
    assert plan.tiers["heavy"].card.id == "made-32b"
    assert plan.notes
    reasons = {one.reason for one in plan.rejected if one.tier == "light"}
    assert "made-14b is pinned here" in reasons


def test_other_tiers_make_way_for_a_pin() -> None:
    """Two tiers without it would be worth more together, but the pin was asked for."""
    plan = on("2xRTX4090", "sequences=8", pins=["heavy=made-14b"])
    assert plan.tiers["heavy"].card.id == "made-14b"
    assert on("2xRTX4090", "sequences=8", pins=["heavy=made-14b", "standard=made-4b"]).unserved != ("heavy",)


def test_pins_that_exclude_each_other_are_kept_as_far_as_there_is_room() -> None:
    """What finds no room says so."""
    pins = ["heavy=made-70b", "standard=made-32b", "light=made-14b"]
    plan = on("H100", "sequences=32,context=8192", pins=pins)
    assert plan.tiers
    assert {one.tier for one in plan.rejected if one.model in {pin.partition("=")[2] for pin in pins}} >= set(
        plan.unserved
    )


def test_a_pin_may_name_one_form() -> None:
    """An Ollama tag or a Hugging Face id pins engine and quantisation too."""
    heavy = on("H100", pins=["heavy=made/made-32b-AWQ"]).tiers["heavy"]
    assert (heavy.variant.engine, heavy.variant.quant) == ("vllm", "awq")


def test_a_pin_that_does_not_fit_leaves_its_tier_empty() -> None:
    """The reason says what is missing; nothing else takes its place."""
    plan = on("RTX3070", pins=["heavy=made-70b"])
    assert plan.unserved == ("heavy",)
    (reason,) = {one.reason for one in plan.rejected if (one.tier, one.model) == ("heavy", "made-70b")}
    assert "GiB" in reason


def test_an_unknown_pin_lists_near_models() -> None:
    """A slip of the pen gets the models that it may mean."""
    with pytest.raises(ConfigError) as raised:
        on("H100", pins=["heavy=made-7b2"])
    assert "made-7b" in str(raised.value)


def test_a_preferred_family_wins_where_it_is_about_as_good() -> None:
    """The same models under two names: the preferred name is chosen for every tier."""
    catalog = made_catalog("alpha", "beta")
    for family in ("alpha", "beta"):
        plan = make_plan(
            read_gpus("H100", TABLE), read_demand(families=[family]), catalog, TABLE, sizer=SIZER
        )
        assert {tier.card.family for tier in plan.tiers.values()} == {family}


def test_capabilities_are_demanded() -> None:
    """A model that cannot do what is asked is rejected with that reason."""
    catalog = Catalog([dense_card(1.5), dense_card(8, capabilities=frozenset({"vision"})), dense_card(14)])
    plan = make_plan(read_gpus("H100", TABLE), read_demand(["heavy:vision"]), catalog, TABLE)
    assert plan.tiers["heavy"].card.id == "made-8b"
    assert {(one.model, one.reason) for one in plan.rejected if one.tier == "heavy"} >= {
        ("made-14b", "cannot do vision")
    }


def test_without_a_gpu_small_models_run_on_the_cpu() -> None:
    """What a desktop CPU would decode too slowly is not planned, however much memory there is."""
    plan = on("cpu-256gb")
    assert plan.mode == "cpu"
    assert plan.tiers["heavy"].card.active_params < 10e9
    assert any("tokens/s" in one.reason for one in plan.rejected if one.model == "made-70b")


def test_nothing_fits_a_tiny_machine() -> None:
    """A plan without any model is a plan: all tiers are unserved, with reasons."""
    plan = on("cpu-2gb")
    assert plan.unserved == TIERS
    assert plan.objective == 0
    check(plan)


def test_spare_memory_becomes_cache() -> None:
    """A vLLM tier takes more sequences than demanded where memory is left, up to what makes sense."""
    plan = on("8xH100", "sequences=8", pins=["heavy=made-32b"])
    assert 8 < plan.tiers["heavy"].sequences <= 32
