"""The footprint of llama.cpp, compared with what a real llama.cpp says that it allocates."""

import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import gguf
import numpy as np
import pytest

from tests.doubles.programs import Program, free_port
from trivet.catalog.footprint import Footprint, FootprintRequest, footprint
from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.model_files import read_model
from trivet.domain.gpus import MIB
from trivet.domain.observations import MemoryObservation
from trivet.engines.llamacpp_log import read_llamacpp_log

PRINTED_BYTES = 0.02 * MIB
"""The log rounds each buffer to hundredths of a MiB."""
WIDTH, HEADS, KV_HEADS, HEAD_DIM, FFN, LAYERS, WINDOW = 64, 4, 2, 32, 128, 6, 256


@pytest.fixture(scope="module")
def sliding_model(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 3: every sixth layer sees everything, the others 256 tokens."""
    path = tmp_path_factory.mktemp("sliding") / "gemma.gguf"
    writer = gguf.GGUFWriter(str(path), "gemma3")
    _copy_tokenizer(gguf.GGUFReader(str(tiny_models["light"])), writer)
    writer.add_context_length(8192)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_sliding_window(WINDOW)
    writer.add_layer_norm_rms_eps(1e-6)
    vocabulary = read_model(tiny_models["light"]).architecture.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (vocabulary, WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        for name, shape in _layer_shapes().items():
            shapes[f"blk.{layer}.{name}"] = shape
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.full(shape, 0.01, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _layer_shapes() -> dict[str, tuple[int, ...]]:
    return {
        "attn_norm": (WIDTH,),
        "post_attention_norm": (WIDTH,),
        "ffn_norm": (WIDTH,),
        "post_ffw_norm": (WIDTH,),
        "attn_q": (HEADS * HEAD_DIM, WIDTH),
        "attn_k": (KV_HEADS * HEAD_DIM, WIDTH),
        "attn_v": (KV_HEADS * HEAD_DIM, WIDTH),
        "attn_output": (WIDTH, HEADS * HEAD_DIM),
        "attn_q_norm": (HEAD_DIM,),
        "attn_k_norm": (HEAD_DIM,),
        "ffn_gate": (FFN, WIDTH),
        "ffn_up": (FFN, WIDTH),
        "ffn_down": (WIDTH, FFN),
    }


def _copy_tokenizer(reader: Any, writer: Any) -> None:
    for name, entry in reader.fields.items():
        if name.startswith("tokenizer."):
            kind = entry.types[0]
            sub = entry.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), kind, sub)


def allocated(log: Path, model: Path, context: int, slots: int, kv: str) -> MemoryObservation:
    """Start the embedded engine, and return what its log says once it answers."""
    port = free_port()
    arguments = ("--model", str(model), "--port", str(port), "--context", str(context), "--slots", str(slots))
    with log.open("wb") as stream:
        process = Popen(
            [sys.executable, "-m", "trivet.engines.llamacpp_server", *arguments, "--kv-type", kv],
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=stream,
        )
        program = Program(url=f"http://127.0.0.1:{port}", process=process)
        try:
            program.wait_ready("/health")
        finally:
            program.stop()
    return read_llamacpp_log(log.read_text(errors="replace"))


def predicted(model: Path, context: int, slots: int, kv: str) -> Footprint:
    """Return what is worked out from the file's header."""
    files = read_model(model)
    return footprint(
        FootprintRequest(
            architecture=files.architecture,
            engine="llamacpp",
            quant=files.quant,
            weights_bytes=files.weights_bytes,
            gpu=load_gpu_table().find("24GB"),
            context_tokens=context,
            sequences=slots,
            kv_dtype=kv,
            slots_apart=True,
        )
    )


@pytest.mark.parametrize(
    ("name", "context", "slots", "kv"),
    [
        ("standard", 2048, 4, "f16"),
        ("heavy", 1000, 1, "q8_0"),
        ("sliding", 2048, 2, "f16"),
        ("sliding", 4096, 1, "q4_0"),
    ],
)
def test_llamacpp_allocates_what_was_predicted(
    name: str,
    context: int,
    slots: int,
    kv: str,
    tmp_path: Path,
    tiny_models: dict[str, Path],
    sliding_model: Path,
) -> None:
    """Weights and cache agree to the last printed digit, whatever layers, slots and cache type."""
    model = sliding_model if name == "sliding" else tiny_models[name]
    seen = allocated(tmp_path / "llama.log", model, context, slots, kv)
    foreseen = predicted(model, context, slots, kv)
    assert seen.weights_bytes == pytest.approx(foreseen.weights_bytes, abs=PRINTED_BYTES)
    assert seen.kv_bytes == pytest.approx(foreseen.kv_bytes, abs=PRINTED_BYTES)
