"""Write a tiny Qwen2 model with random weights, small enough for vLLM on a CPU: `tiny_qwen2.py DIRECTORY`.

Standard library only, so that any Python can run it. The model writes nonsense of plain words and letters,
never ends by itself (every answer runs to its token limit) and is the same on every run. Heads have 32
dimensions because vLLM's CPU attention accepts nothing smaller.
"""

import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

HIDDEN = 128
INTERMEDIATE = 256
LAYERS = 2
HEADS = 4
KEY_VALUE_HEADS = 2
VOCABULARY = 448
CONTEXT_TOKENS = 32_768
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
WORDS = ("the", "and", "is", "of", "to", "in", "tier", "model", "token", "heavy", "request", "answer")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# One dimension of the residual stream keeps the value that every embedding gives it, so after the last norm
# it is positive whatever was read, and its column of the output matrix is a bias for each token.
BIAS_DIMENSION = 0
NEVER = -40.0


def byte_symbols() -> list[str]:
    """Return the printable symbol of each byte, as GPT-2's byte-level BPE defines it."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def vocabulary() -> tuple[dict[str, int], list[list[str]]]:
    """Return token ids and merges: the special tokens, the bytes, then pieces that build up common words."""
    tokens = {token: number for number, token in enumerate((*SPECIALS, *byte_symbols()))}
    merges: list[list[str]] = []
    space = byte_symbols()[0x20]
    for word in WORDS:
        piece = space
        for letter in word:
            if piece + letter not in tokens:
                tokens[piece + letter] = len(tokens)
                merges.append([piece, letter])
            piece += letter
    return tokens, merges


def tokenizer(tokens: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    """Return the content of `tokenizer.json`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": tokens[token], "content": token, **flags} for token in SPECIALS],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": tokens, "merges": merges},
    }


def tensors(tokens: dict[str, int]) -> dict[str, tuple[tuple[int, ...], list[float]]]:
    """Return each weight's shape and values, row by row."""
    source = random.Random(0)

    def matrix(rows: int, columns: int, deviation: float = 0.05) -> tuple[tuple[int, ...], list[float]]:
        return (rows, columns), [source.gauss(0.0, deviation) for _ in range(rows * columns)]

    def vector(size: int, value: float) -> tuple[tuple[int, ...], list[float]]:
        return (size,), [value] * size

    def silenced(weight: tuple[tuple[int, ...], list[float]]) -> tuple[tuple[int, ...], list[float]]:
        (_, columns), values = weight
        start = BIAS_DIMENSION * columns
        values[start : start + columns] = [0.0] * columns
        return weight

    embedding, output = matrix(VOCABULARY, HIDDEN, 0.5), matrix(VOCABULARY, HIDDEN, 0.1)
    spoken = {number for token, number in tokens.items() if token not in SPECIALS and writable(token)}
    for row in range(VOCABULARY):
        embedding[1][row * HIDDEN + BIAS_DIMENSION] = 1.0
        output[1][row * HIDDEN + BIAS_DIMENSION] = 0.0 if row in spoken else NEVER
    weights = {"model.embed_tokens.weight": embedding, "model.norm.weight": vector(HIDDEN, 1.0)}
    key_value = HIDDEN // HEADS * KEY_VALUE_HEADS
    for layer in (f"model.layers.{number}" for number in range(LAYERS)):
        for name, size in (("q", HIDDEN), ("k", key_value), ("v", key_value)):
            weights[f"{layer}.self_attn.{name}_proj.weight"] = matrix(size, HIDDEN)
            weights[f"{layer}.self_attn.{name}_proj.bias"] = vector(size, 0.0)
        weights[f"{layer}.self_attn.o_proj.weight"] = silenced(matrix(HIDDEN, HIDDEN))
        weights[f"{layer}.mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[f"{layer}.mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[f"{layer}.mlp.down_proj.weight"] = silenced(matrix(HIDDEN, INTERMEDIATE))
        weights[f"{layer}.input_layernorm.weight"] = vector(HIDDEN, 1.0)
        weights[f"{layer}.post_attention_layernorm.weight"] = vector(HIDDEN, 1.0)
    return weights | {"lm_head.weight": output}


def writable(token: str) -> bool:
    """Tell whether a token is a space, a letter or a piece of a word."""
    text = token.replace(byte_symbols()[0x20], " ")
    return text.isascii() and (text == " " or text.strip().isalpha())


def bfloat16(values: list[float]) -> bytes:
    """Return numbers as little-endian bfloat16: the upper half of a float32."""
    packed = struct.pack(f"<{len(values)}f", *values)
    halves = bytearray(len(packed) // 2)
    halves[0::2], halves[1::2] = packed[2::4], packed[3::4]
    return bytes(halves)


def safetensors(weights: dict[str, tuple[tuple[int, ...], list[float]]]) -> bytes:
    """Return the content of a safetensors file: header length, JSON header, data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, (shape, values) in weights.items():
        start = len(data)
        data += bfloat16(values)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (start, len(data))}
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def write_model(directory: Path) -> None:
    """Write a model that vLLM and Transformers load, under 1 MB, into a new or existing directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT_TOKENS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": tokens["<|endoftext|>"],
        "eos_token_id": tokens["<|im_end|>"],
        "dtype": "bfloat16",
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": CONTEXT_TOKENS,
        "chat_template": CHAT_TEMPLATE,
    }
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", tokenizer(tokens, merges)),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (directory / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    (directory / "model.safetensors").write_bytes(safetensors(tensors(tokens)))


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
