"""Models read from files: safetensors headers, GGUF headers, configs."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.unit.catalog.configs import LLAMA_8B, NEMOTRON3_NANO
from trivet.catalog.architecture import Architecture
from trivet.catalog.gguf_header import read_gguf
from trivet.catalog.gguf_metadata import config_from_gguf
from trivet.catalog.model_choice import ModelAsked, choose_model
from trivet.catalog.model_files import read_architecture, read_model
from trivet.catalog.safetensors_header import checkpoint_sizes
from trivet.domain.errors import ConfigError

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], int]]) -> None:
    """Write a file's header and the bytes it promises: name to (dtype, shape, bytes of an element)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (dtype, shape, width) in tensors.items():
        size = int(np.prod(shape)) * width
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * place)


def write_gguf(path: Path, *, tied: bool = False, layers: int = 2) -> None:
    """Write a small Llama with llama.cpp's own writer: matrices in Q8_0, norms in F32."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("small")
    writer.add_block_count(layers)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(512)
    writer.add_token_list([f"t{i}" for i in range(5000)])
    kinds = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    kinds |= {"ffn_gate": (128, 64), "ffn_up": (128, 64), "ffn_down": (64, 128)}

    def add(name: str, shape: tuple[int, int]) -> None:
        data = gguf.quants.quantize(np.zeros(shape, dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    add("token_embd.weight", (5000, 64))
    for layer in range(layers):
        for kind, shape in kinds.items():
            add(f"blk.{layer}.{kind}.weight", shape)
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(64, dtype=np.float32))
    if not tied:
        add("output.weight", (5000, 64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_directory_is_read_from_its_headers(tmp_path: Path) -> None:
    """Every tensor counts with the bytes that it has; a drafter's layers are told apart."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    write_safetensors(
        tmp_path / "model-00001-of-00002.safetensors",
        {
            "model.embed_tokens.weight": ("BF16", (256, 64), 2),
            "model.layers.0.mlp.up_proj.qweight": ("I32", (8, 128), 4),
        },
    )
    write_safetensors(
        tmp_path / "model-00002-of-00002.safetensors",
        {
            "model.layers.2.mlp.up_proj.weight": ("BF16", (128, 64), 2),
            "mtp.fc.weight": ("BF16", (64, 64), 2),
            "lm_head.weight": ("F8_E4M3", (256, 64), 1),
        },
    )
    sizes = checkpoint_sizes(tmp_path, layers=2)
    assert sizes.bytes_by_dtype == {"BF16": 256 * 64 * 2, "I32": 8 * 128 * 4, "F8_E4M3": 256 * 64}
    assert sizes.draft_bytes == (128 * 64 + 64 * 64) * 2
    found = read_model(tmp_path)
    assert (found.weights_bytes, found.dtype, found.quant) == (sizes.weights_bytes, "bfloat16", None)


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}},
            "int4",
        ),
    ],
    ids=["awq", "fp8", "nvfp4", "compressed"],
)
def test_a_checkpoint_names_its_quantisation(
    tmp_path: Path, quantization: dict[str, Any], expected: str
) -> None:
    """Whatever the method calls itself, it comes out as --quant takes it."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"quantization_config": quantization}))
    assert read_model(tmp_path).quant == expected


def test_a_gguf_file_is_read(tmp_path: Path) -> None:
    """Sizes and parameters are those of its tensors; long lists are skipped."""
    write_gguf(tmp_path / "small.gguf")
    header = read_gguf(tmp_path / "small.gguf")
    matrices = 2 * 5000 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    assert header.bytes_by_type == {"Q8_0": matrices // 32 * 34, "F32": 2 * 64 * 4}
    assert header.metadata["tokenizer.ggml.tokens"] == 5000
    found = read_model(tmp_path / "small.gguf")
    assert (found.weights_bytes, found.quant) == (matrices // 32 * 34 + 512, "q8_0")
    assert found.architecture.total_params == pytest.approx(header.params, rel=0.001)
    assert (found.architecture.vocab_size, found.architecture.tied) == (5000, False)
    assert found.architecture.max_context_tokens == 512


def test_tied_files_have_no_output(tmp_path: Path) -> None:
    """Without output.weight the embedding is the output."""
    write_gguf(tmp_path / "tied.gguf", tied=True)
    assert read_model(tmp_path / "tied.gguf").architecture.tied


def test_parts_are_read_as_one(tmp_path: Path) -> None:
    """A model in several files is the sum of them, whichever is named."""
    write_gguf(tmp_path / "m-00001-of-00002.gguf")
    write_gguf(tmp_path / "m-00002-of-00002.gguf")
    one = read_gguf(tmp_path / "m-00001-of-00002.gguf")
    assert one == read_gguf(tmp_path / "m-00002-of-00002.gguf")
    (tmp_path / "alone-00001-of-00002.gguf").write_bytes((tmp_path / "m-00001-of-00002.gguf").read_bytes())
    with pytest.raises(ConfigError, match="alone-00002-of-00002"):
        read_gguf(tmp_path / "alone-00001-of-00002.gguf")


def test_mamba_layers_are_told_by_their_heads() -> None:
    """Of Nemotron-H's metadata the pattern comes back: heads attend, widths are feed-forward, else Mamba."""
    pattern = NEMOTRON3_NANO["hybrid_override_pattern"]
    metadata = {
        "general.architecture": "nemotron_h_moe",
        "nemotron_h_moe.block_count": 52,
        "nemotron_h_moe.embedding_length": 2688,
        "nemotron_h_moe.attention.head_count": 32,
        "nemotron_h_moe.attention.head_count_kv": [2 if letter == "*" else 0 for letter in pattern],
        "nemotron_h_moe.attention.key_length": 128,
        "nemotron_h_moe.feed_forward_length": [1856 if letter == "E" else 0 for letter in pattern],
        "nemotron_h_moe.expert_count": 128,
        "nemotron_h_moe.expert_used_count": 6,
        "nemotron_h_moe.expert_feed_forward_length": 1856,
        "nemotron_h_moe.expert_shared_feed_forward_length": 3712,
        "nemotron_h_moe.vocab_size": 131072,
        "nemotron_h_moe.ssm.conv_kernel": 4,
        "nemotron_h_moe.ssm.state_size": 128,
        "nemotron_h_moe.ssm.group_count": 8,
        "nemotron_h_moe.ssm.inner_size": 4096,
        "nemotron_h_moe.ssm.time_step_rank": 64,
    }
    config = config_from_gguf(metadata) | {"tie_word_embeddings": False}
    assert config["hybrid_override_pattern"] == pattern
    read, direct = Architecture.from_config(config), Architecture.from_config(NEMOTRON3_NANO)
    assert read.total_params == pytest.approx(direct.total_params, rel=0.002)
    assert [layer.recurrent_state for layer in read.plan] == [layer.recurrent_state for layer in direct.plan]


def test_drafting_layers_are_not_the_models() -> None:
    """A block count includes them, and says so."""
    metadata = {
        "general.architecture": "glm4moe",
        "glm4moe.block_count": 47,
        "glm4moe.nextn_predict_layers": 1,
    }
    assert config_from_gguf(metadata)["num_hidden_layers"] == 46


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.gguf", b"GGUF\x03\0\0\0\x05"),
        ("text.gguf", b"version https://git-lfs.github.com/spec/v1"),
        ("huge.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1)),
        ("old.gguf", b"GGUF" + struct.pack("<IQQ", 1, 0, 0)),
    ],
    ids=["cut", "pointer", "huge", "old"],
)
def test_broken_gguf_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """With a sentence, whatever they hold."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        read_model(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 16, struct.pack("<Q", 5) + b"[1,2]", struct.pack("<Q", 9) + b'{"a": {}}'],
    ids=["empty", "huge", "list", "entry"],
)
def test_broken_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    """With a sentence, whatever they hold."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        read_model(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    """An empty directory, a missing file, JSON that is no object."""
    (tmp_path / "list.json").write_text("[]")
    for path in (tmp_path, tmp_path / "none.gguf", tmp_path / "none.json", tmp_path / "list.json"):
        with pytest.raises(ConfigError):
            read_model(path)


def test_a_form_that_is_asked_for_replaces_the_one_found(tmp_path: Path) -> None:
    """Exact sizes hold for the files' own form only."""
    write_gguf(tmp_path / "small.gguf")
    path = str(tmp_path / "small.gguf")
    own = choose_model(ModelAsked(name=path, engine="llamacpp"))
    other = choose_model(ModelAsked(name=path, engine="llamacpp", quant="q4_0"))
    assert (own.weights_bytes is None, own.quant) == (False, "q8_0")
    assert (other.weights_bytes, other.quant) == (None, "q4_0")


def test_a_card_is_taken_in_the_form_for_the_engine() -> None:
    """An Ollama tag names a form; a card's name takes the engine's first; --dtype and --quant decide else."""
    tag = choose_model(ModelAsked(name="llama3.1:8b", engine="ollama"))
    plain = choose_model(ModelAsked(name="llama-3.1-8b-instruct", engine="vllm", dtype="fp8"))
    assert tag.quant == "q4_k_m"
    assert tag.architecture.total_params == plain.architecture.total_params
    assert plain.dtype == "fp8"
    with pytest.raises(ConfigError, match="Which model"):
        choose_model(ModelAsked(engine="vllm"))


def test_a_partial_config_is_a_model(tmp_path: Path) -> None:
    """--arch takes any file with Hugging Face's names; GGUF engines then take the usual type."""
    (tmp_path / "arch.json").write_text(json.dumps(LLAMA_8B))
    found = choose_model(ModelAsked(arch=tmp_path / "arch.json", engine="ollama"))
    assert (found.quant, found.weights_bytes) == ("q4_k_m", None)


@pytest.mark.parametrize("name", ["deep.gguf", "deep.json", "model.safetensors"])
def test_nesting_without_end_is_refused(tmp_path: Path, name: str) -> None:
    """A crafted file must not end in a traceback."""
    deep = b"[" * 200_000
    content = {
        "deep.gguf": b"GGUF"
        + struct.pack("<IQQ", 3, 0, 1)
        + struct.pack("<Q", 1)
        + b"k"
        + struct.pack("<I", 9)
        + struct.pack("<IQ", 9, 1) * 20_000,
        "deep.json": deep,
        "model.safetensors": struct.pack("<Q", len(deep)) + deep,
    }[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    with pytest.raises(ConfigError):
        read_model(tmp_path if name.endswith("safetensors") else tmp_path / name)


def test_a_line_of_many_is_found_by_its_model(tmp_path: Path) -> None:
    """--arch FILE.jsonl --model NAME takes one record of a file; a file of one needs no name."""
    path = tmp_path / "architectures.jsonl"
    path.write_text("\n".join(json.dumps({"model": name} | LLAMA_8B) for name in ("acme/a", "acme/b")))
    assert read_architecture(path, name="acme/b").name == "acme/b"
    for name in (None, "acme/c"):
        with pytest.raises(ConfigError, match="holds 2 architectures"):
            read_architecture(path, name=name)
    path.write_text(json.dumps({"model": "acme/a"} | LLAMA_8B))
    assert read_architecture(path).name == "acme/a"


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        ("gemma-4-12b.json", None, "gemma-4-12b"),
        ("config.json", None, ""),
        ("config.json", "acme-9b", "acme-9b"),
    ],
)
def test_a_config_is_named_by_whoever_knows(
    tmp_path: Path, file: str, name: str | None, expected: str
) -> None:
    """The name that was given, else the file's, unless every such file is called so."""
    (tmp_path / file).write_text(json.dumps(LLAMA_8B))
    assert read_architecture(tmp_path / file, name=name).name == expected
