"""What engines took in truth, in the place of what the formulas say."""

from typing import Any

import pytest

from tests.unit.catalog.made_cards import dense_card
from tests.unit.catalog.test_placement import CATALOG, TABLE
from trivet.catalog.corrections import OBSERVED_BAND_BYTES, Corrections
from trivet.catalog.demand import read_demand
from trivet.catalog.gpus_text import read_gpus
from trivet.catalog.placement import make_plan
from trivet.catalog.plan import Plan
from trivet.catalog.sizing import Load, Sizer
from trivet.domain.gpus import GIB

H100 = TABLE.find("H100")
CARD = dense_card(32)
LOAD = Load(context_tokens=8192, sequences=8)
VLLM = next(variant for variant in CARD.variants if variant.quant == "awq")
OLLAMA = next(variant for variant in CARD.variants if variant.quant == "q4_k_m")


def entry(**changes: Any) -> dict[str, Any]:
    """Return what the fleet keeps of a start of vLLM."""
    return {
        "engine": "vllm",
        "engine_version": "0.32.0",
        "model": VLLM.ref,
        "gpu": "NVIDIA H100 80GB HBM3",
        "tensor_parallel": 1,
        "context_tokens": 8192,
        "sequences": 8,
        "weights_bytes": 20 * GIB,
        "kv_bytes": 10 * GIB,
        "kv_tokens": 40_960,
        "activation_bytes": 2 * GIB,
        "non_torch_bytes": None,
        "graphs_bytes": GIB,
        "compute_bytes": None,
        "observed_at": "2026-11-01T12:00:00+00:00",
        **changes,
    }


def sizer(*entries: Any) -> Sizer:
    """Return a sizer that knows these starts, oldest first."""
    return Sizer(Corrections({str(number): one for number, one in enumerate(entries)}, TABLE))


def test_a_vllm_start_corrects_everything_but_its_budget() -> None:
    """What the rest takes less or more, the pool has more or less; the total is the budget that was given."""
    plain = Sizer().size(CARD, VLLM, H100, 1, LOAD, 0.8)
    seen = sizer(entry()).size(CARD, VLLM, H100, 1, LOAD, 0.8)
    assert (seen.weights_bytes, seen.activation_bytes, seen.graphs_bytes) == (20 * GIB, 2 * GIB, GIB)
    assert seen.non_torch_bytes == plain.non_torch_bytes
    assert seen.total_bytes == plain.total_bytes
    beside = seen.weights_bytes + seen.activation_bytes + seen.non_torch_bytes + seen.graphs_bytes
    beside_before = plain.weights_bytes + plain.activation_bytes + plain.non_torch_bytes + plain.graphs_bytes
    assert seen.kv_bytes + beside == plain.kv_bytes + beside_before
    assert seen.kv_tokens == int(seen.kv_bytes / (10 * GIB / 40_960))
    assert seen.band_bytes == OBSERVED_BAND_BYTES


def test_a_start_with_fewer_sequences_bounds_the_activation_from_below() -> None:
    """vLLM's activation grows with its sequences."""
    more = Load(context_tokens=8192, sequences=64)
    small = sizer(entry(activation_bytes=1)).size(CARD, VLLM, H100, 1, more, 0.8)
    assert small.activation_bytes == Sizer().size(CARD, VLLM, H100, 1, more, 0.8).activation_bytes
    large = sizer(entry(activation_bytes=30 * GIB)).size(CARD, VLLM, H100, 1, more, 0.8)
    assert large.activation_bytes == 30 * GIB


def test_a_llamacpp_start_adds_up() -> None:
    """Without a budget the total is the sum; the cache is taken over for the same load only."""
    start = entry(
        engine="ollama", model=OLLAMA.ref, activation_bytes=None, graphs_bytes=None, compute_bytes=GIB
    )
    same = sizer(start).size(CARD, OLLAMA, H100, 1, LOAD, None)
    assert same.total_bytes == 20 * GIB + 10 * GIB + GIB + same.non_torch_bytes
    other = sizer(start).size(CARD, OLLAMA, H100, 1, Load(context_tokens=4096, sequences=8), None)
    assert (
        other.kv_bytes
        == Sizer().size(CARD, OLLAMA, H100, 1, Load(context_tokens=4096, sequences=8), None).kv_bytes
    )


def test_the_newest_start_counts() -> None:
    """Of several starts of one kind the last one is believed."""
    size = sizer(entry(weights_bytes=1), entry(weights_bytes=2)).size(CARD, VLLM, H100, 1, LOAD, 0.8)
    assert size.weights_bytes == 2


@pytest.mark.parametrize(
    "other",
    [
        entry(gpu="NVIDIA L40S"),
        entry(gpu="cpu"),
        entry(model="made/other"),
        entry(engine="llamacpp"),
        entry(tensor_parallel=2),
        entry(weights_bytes="20"),
        entry(gpu=None),
        "nonsense",
        None,
    ],
)
def test_other_starts_and_nonsense_change_nothing(other: Any) -> None:
    """Another GPU, model, engine or split is another matter, and a broken file is no reason to fail."""
    assert sizer(other).size(CARD, VLLM, H100, 1, LOAD, 0.8) == Sizer().size(CARD, VLLM, H100, 1, LOAD, 0.8)


def test_a_plan_says_what_it_believed() -> None:
    """The tier carries the instant of the start, a note names it, and its band is small."""

    def planned(with_sizer: Sizer) -> Plan:
        demand = read_demand(["sequences=8"], pins=[f"heavy={VLLM.ref}"])
        return make_plan(read_gpus("H100", TABLE), demand, CATALOG, TABLE, sizer=with_sizer)

    before, after = planned(Sizer()), planned(sizer(entry(weights_bytes=25 * GIB)))
    assert before.tiers["heavy"].observed_at is None
    assert after.tiers["heavy"].observed_at == "2026-11-01T12:00:00+00:00"
    assert after.tiers["heavy"].footprint.weights_bytes == 25 * GIB
    assert any("2026-11-01" in note for note in after.notes)
