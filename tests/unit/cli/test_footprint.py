"""`trivet footprint`: what is asked, what is answered."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit.catalog.configs import LLAMA_8B
from trivet.cli.main import app
from trivet.domain.errors import ConfigError

RUNNER = CliRunner()


@pytest.fixture
def arch(tmp_path: Path) -> Path:
    """A config.json on disk, and no configuration of Trivet's nearby."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_8B))
    (tmp_path / "trivet.yaml").write_text("{}")
    return path


def answer(arch: Path, *arguments: str) -> dict[str, Any]:
    """Run the command with --json and return the object."""
    place = ("--config", str(arch.with_name("trivet.yaml")))
    model = () if "--model" in arguments else ("--arch", str(arch))
    done = RUNNER.invoke(app, ["footprint", *model, *arguments, *place, "--json"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def test_one_object_with_the_published_names(arch: Path) -> None:
    """The figures of one GPU in GiB, whether it fits, and what was assumed."""
    document = answer(
        arch, "--engine", "vllm", "--dtype", "bf16", "--context", "8192", "--tp", "1", "--gpu", "H100",
        "--gpu-memory-utilization", "0.95", "--engine-version", "0.19.0", "--kv-dtype", "auto",
    )  # fmt: skip
    assert document["weights_gib"] == pytest.approx(14.99, rel=0.01)
    assert document["kv_gib"] == pytest.approx(58.11, abs=0.2)
    assert document["kv_tokens"] == pytest.approx(476_016, rel=0.005)
    assert (document["kv_bytes_per_token"], document["fits"]) == (131_072, True)
    assert set(document) >= {
        "activation_gib",
        "non_torch_gib",
        "graphs_gib",
        "compute_gib",
        "total_gib",
        "band_gib",
        "assumed",
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--engine", "llama.cpp (mainline)", "--quant", "Q4_K - Medium (4.837 BPW)"), 4.523),
        (("--engine", "ollama", "--quant", "q8_0"), 7.95),
        (("--engine", "llamacpp",), 4.575),
        (("--params-b", "16.06", "--dtype", "fp8"), 15.98),
        (("--bits-per-weight", "8"), 7.479),
        (("--dtype", "bf16", "--tp", "2"), 7.48),
        (("--dtype", "awq"), 5.36),
    ],
    ids=["bpw in the type", "ollama", "default type", "params", "bits", "tp", "awq"],
)  # fmt: skip
def test_weights_follow_what_is_said(arch: Path, arguments: tuple[str, ...], expected: float) -> None:
    """Types, totals and bits in whatever form people have them."""
    document = answer(arch, *arguments, "--context", "4096", "--gpu", "A100-80GB")
    assert document["weights_gib"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("gpu", "note"),
    [
        ("RTX 5090 + RTX 3090", "RTX 3090"),
        ("2x Tesla M40 24GB + T4 16GB", "T4"),
        ("CPU or not stated", "memory"),
    ],
)
def test_the_smallest_of_several_gpus_counts(arch: Path, gpu: str, note: str) -> None:
    """Each must hold its share; without a GPU the machine's memory is the device."""
    document = answer(arch, "--engine", "ollama", "--context", "4096", "--gpu", gpu)
    assert any(note in assumed for assumed in document["assumed"])


def test_without_a_context_the_engines_own_is_taken(arch: Path) -> None:
    """And said so."""
    document = answer(arch, "--engine", "ollama", "--gpu", "RTX3060-12GB")
    assert document["kv_tokens"] == 4096
    assert any("own context of 4096" in assumed for assumed in document["assumed"])


def test_without_a_gpu_the_assumed_one_is_said(arch: Path) -> None:
    """A card nobody named is no silent default."""
    assumed = answer(arch, "--dtype", "bf16", "--context", "8192")["assumed"]
    assert "an H100, as no --gpu was named" in assumed
    named = answer(arch, "--dtype", "bf16", "--context", "8192", "--gpu", "H100")["assumed"]
    assert not any("--gpu" in note for note in named)


def test_a_card_of_the_catalog(arch: Path) -> None:
    """By its name or by an Ollama tag."""
    one = answer(arch, "--model", "llama3.1:8b", "--engine", "ollama", "--context", "4096", "--gpu", "24GB")
    assert one["weights_gib"] == pytest.approx(4.58, rel=0.02)
    assert one["fits"]


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        (("--gpu", "H100", "--dtype", "bf16"), "It fits: "),
        (("--gpu", "8GB", "--dtype", "bf16"), "the weights alone"),
        (
            ("--gpu", "RTX4090", "--dtype", "bf16", "--context", "131072"),
            "for one sequence of 131,072 tokens",
        ),
        (("--gpu", "RTX4090", "--engine", "ollama"), "It fits, with 1 slot(s)"),
        (
            ("--gpu", "RTX4090", "--engine", "ollama", "--context", "131072", "--sequences", "4"),
            "GiB too much",
        ),
    ],
    ids=["fits", "weights", "pool", "ollama", "too much"],
)
def test_people_get_a_verdict(arch: Path, arguments: tuple[str, ...], verdict: str) -> None:
    """A bar of the card, a table, and one sentence that says what to do."""
    context = () if "--context" in arguments else ("--context", "8192")
    place = ("--config", str(arch.with_name("trivet.yaml")))
    done = RUNNER.invoke(app, ["footprint", "--arch", str(arch), *arguments, *context, *place])
    assert done.exit_code == 0
    assert verdict in done.stdout
    assert "GiB usable" in done.stdout
    assert "WWW" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "sglang"), "No engine called"),
        (("--gpu", "RTX9999"), "No GPU called"),
        (("--dtype", "q17"), "No precision called"),
        (("--gpu-memory-utilization", "90"), "share between 0 and 1"),
        (("--model", "qwen-9000"), "No model called"),
    ],
)
def test_mistakes_are_named(arch: Path, arguments: tuple[str, ...], message: str) -> None:
    """Each with what would be right."""
    with pytest.raises(ConfigError, match=message):
        answer(arch, *arguments)
