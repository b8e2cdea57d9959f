"""The table of errors, on cases of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.catalog.configs import DEEPSEEK_V3, GEMMA3_27B, GPT_OSS_20B, LLAMA_8B, QWEN35_35B_A3B
from trivet.catalog.gpu_table import load_gpu_table
from trivet.domain.errors import ConfigError
from trivet.lab.footprint_accuracy import main, report
from trivet.lab.memory_cases import read_cases, record_for

RECORDS: list[dict[str, Any]] = [
    {"model": "meta-llama/Llama-3.1-8B"} | LLAMA_8B,
    {"model": "deepseek-ai/DeepSeek-R1"} | DEEPSEEK_V3,
    {"model": "google/gemma-3-27b-it"} | GEMMA3_27B,
    {"model": "openai/gpt-oss-20b"} | GPT_OSS_20B,
    {"model": "Qwen/Qwen3.5-35B-A3B"} | QWEN35_35B_A3B,
]
H100 = {"engine": "vllm", "gpu": "H100", "num_gpus_tp": 1, "kv_dtype": "auto", "quant_or_dtype": "bf16"}
CASES: list[dict[str, Any]] = [
    H100
    | {
        "id": 1,
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "ctx_or_max_model_len": 8192,
        "gpu_memory_utilization": 0.95,
        "engine_version": "0.19.0",
        "measured": {
            "weights_gib": 14.99,
            "activation_gib": 1.89,
            "non_torch_gib": 0.25,
            "kv_gib": 58.11,
            "kv_tokens": 476016,
        },
    },
    H100
    | {
        "id": 2,
        "model": "openai/gpt-oss-20b",
        "quant_or_dtype": "mxfp4",
        "gpu_memory_utilization": 0.9,
        "note": "document states 0.11.0",
        "measured": {"weights_gib": 13.47, "activation_gib": 7.38, "non_torch_gib": 0.13, "kv_gib": 50.28},
    },
    H100
    | {
        "id": 3,
        "model": "openai/gpt-oss-20b",
        "quant_or_dtype": "mxfp4",
        "gpu_memory_utilization": 0.5,
        "engine_version": "0.11",
        "measured": {"weights_gib": 13.47, "activation_gib": 7.38, "non_torch_gib": 0.13, "kv_gib": 50.28},
    },
    H100
    | {
        "id": 4,
        "model": "Qwen/Qwen3.6-35B-A3B",
        "gpu": "GB10",
        "ctx_or_max_model_len": 131072,
        "engine_version": "0.20",
        "measured": {"kv_gib": 47.55, "kv_tokens": 623040, "max_concurrency": 18.44},
    },
    {
        "id": 5,
        "engine": "llama.cpp",
        "model": "DeepSeek-R1/V3 671B (386.183 GiB)",
        "quant_or_dtype": "Q4_K - Medium (4.578 BPW)",
        "gpu": "CPU",
        "ctx_or_max_model_len": 32768,
        "kv_dtype": "f16",
        "total_params_text": "671.026 B",
        "measured": {"weights_gib": 357.623, "kv_gib": 2.14453, "compute_mib_by_device": {"CUDA0": 3393.0}},
    },
    {
        "id": 6,
        "engine": "ik_llama.cpp",
        "model": "gemma-3-27b-it-Q4_0.gguf",
        "quant_or_dtype": "Q4_0 (4.624 BPW)",
        "ctx_or_max_model_len": 8192,
        "kv_dtype": "f16/f16",
        "measured": {"weights_gib": 14.539, "kv_gib": 3.875},
    },
    H100 | {"id": 7, "model": "acme/unheard-of-9b", "measured": {"weights_gib": 1.0}},
    H100 | {"id": 8, "model": "google/gemma-3-27b-it", "note": "FAILED", "measured": {"kv_gib": -2.0}},
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The cases and the architectures as files."""
    cases, architectures = tmp_path / "cases.jsonl", tmp_path / "architectures.jsonl"
    cases.write_text("\n".join(json.dumps(case) for case in CASES))
    architectures.write_text("\n".join(json.dumps(record) for record in RECORDS))
    return cases, architectures


def test_every_quantity_has_its_line(files: tuple[Path, Path]) -> None:
    """Counts, medians, and the bar on pools; what does not add up or did not start is left out and named."""
    document = json.loads(report(*files, as_json=True))
    lines = {line["quantity"].strip(): line for line in document["quantities"]}
    assert lines["vLLM weights, 16 and 32 bit"]["median"] < 0.01
    assert lines["vLLM weights, 4 bit"]["n"] == 2
    assert lines["vLLM KV bytes/token, linear hybrids"]["median"] < 0.005
    assert lines["same two, all layers full (naive)"]["median"] > 2
    assert lines["llama.cpp, Ollama KV, plain and latent"]["median"] < 0.0005
    assert lines["llama.cpp compute buffer"]["n"] == 1
    assert "llama.cpp, Ollama KV, sliding" not in lines
    assert document["h100_pools_met"] == [2, 2]
    assert {(row["id"], row["reason"].split()[0]) for row in document["left_out"]} == {
        (3, "pool"),
        (7, "no"),
        (8, "did"),
    }


def test_the_table_reads_well(files: tuple[Path, Path]) -> None:
    """A line for each quantity, the bar in a sentence."""
    text = report(*files, as_json=False)
    assert text.startswith("quantity")
    assert "H100 pools within the larger of 3 % and 0.75 GiB: 2 of 2" in text
    assert "Left out: 3" in text


def test_versions_come_from_notes(files: tuple[Path, Path]) -> None:
    """A table that states its version once counts for its rows."""
    cases, _ = read_cases(*files, load_gpu_table())
    assert {case.id: case.request.engine_version for case in cases}[2] == "0.11.0"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("gemma-3-27b-it-int4-awq", "google/gemma-3-27b-it"),
        ("qwen3.6-35b-a3b-nvfp4", "Qwen/Qwen3.5-35B-A3B"),
        ("deepseek-r1:671b", "deepseek-ai/DeepSeek-R1"),
        ("Qwen/Qwen3-32B", None),
        ("mixtral-8x7b", None),
    ],
)
def test_models_are_found_by_family_and_size(name: str, expected: str | None) -> None:
    """However a case writes the model."""
    found = record_for(name, RECORDS)
    assert (found["model"] if found else None) == expected


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        report(tmp_path / "cases.jsonl", tmp_path / "none.jsonl", as_json=False)


def test_the_command_prints_the_table_of_its_files(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The default file of cases, and the architectures that are named."""
    cases, architectures = files
    main(cases, ["--architectures", str(architectures), "--json"])
    assert capsys.readouterr().out == report(cases, architectures, as_json=True)


def test_the_command_fails_plainly_without_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3, one line."""
    with pytest.raises(SystemExit, match="3"):
        main(tmp_path / "cases.jsonl", ["--cases", str(tmp_path / "none.jsonl")])
    assert capsys.readouterr().err.startswith("eval-footprint: ")
