"""Write tiny language models with random weights: real to an engine, nonsense to a reader.

They let the demo and the tests run real inference anywhere, without a download. The text they produce is
made of syllables and means nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.domain.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TinySize:
    """The shape of one tiny model."""

    width: int
    layers: int
    heads: int


TINY_SIZES: dict[str, TinySize] = {
    "light": TinySize(width=64, layers=2, heads=2),
    "standard": TinySize(width=256, layers=4, heads=4),
    "heavy": TinySize(width=384, layers=7, heads=6),
}
"""One size per default tier; the time per token stands at about 1 : 5 : 20 on one core."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TURN = SPECIAL_TOKENS.index("<|im_end|>")

# Syllables and a few words, built by merges of two: "th"+"e" -> "the", " t"+"he" -> " the".
SYLLABLES = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le "
    "ve co me de hi ri ro ic ne ea ra ce li ch ll be ma si om ur la no"
)
SPACED_LETTERS = "tasowcbpfmidlre"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + (message.content or '') + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# Odds in the logits' own unit: an unconstrained answer ends after some dozens of tokens.
END_BIAS = 2.0
UNPRINTABLE_BIAS = -12.0
LOGIT_SPREAD = 1.5


def write_tiny_model(
    path: Path, *, width: int, layers: int, heads: int, seed: int, context_tokens: int = 2048
) -> None:
    """Write a llama-architecture GGUF file with random F32 weights, the same bytes for the same arguments.

    Args:
        path: the file to write; replaced if it exists.
        width: size of the hidden state; `width / heads` must be even.
        layers: number of transformer blocks.
        heads: attention heads; as many key-value heads.
        seed: of the random weights.
        context_tokens: the context window the file declares.

    Raises:
        ConfigError: the shape is impossible, or the extra `llamacpp` is not installed.
    """
    if width % heads or (width // heads) % 2:
        raise ConfigError(
            f"A tiny model of width {width} cannot have {heads} heads: width / heads must be even."
        )
    numpy, gguf = _libraries()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"trivet-tiny-{width}x{layers}")
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(3 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    vocabulary = _add_tokenizer(writer, gguf)
    for name, tensor in _weights(numpy.random.default_rng(seed), vocabulary, width, layers).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tiny_models(directory: Path, *, seed: int = 1, context_tokens: int = 2048) -> dict[str, Path]:
    """Write one model per entry of TINY_SIZES as `directory/tiny-NAME.gguf`; return the files by name."""
    files = {}
    for offset, (name, size) in enumerate(TINY_SIZES.items()):
        files[name] = directory / f"tiny-{name}.gguf"
        write_tiny_model(
            files[name],
            width=size.width,
            layers=size.layers,
            heads=size.heads,
            seed=seed + offset,
            context_tokens=context_tokens,
        )
    return files


def _libraries() -> tuple[Any, Any]:
    try:
        import gguf
        import numpy as np
    except ImportError as error:
        raise ConfigError(
            f"Writing a tiny model needs the Python package {error.name!r}.",
            hint="Install the extra: pip install 'trivet[llamacpp]'.",
        ) from None
    return np, gguf


def _byte_symbols() -> list[str]:
    # GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the other bytes are moved up from 256.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]


def _add_tokenizer(writer: Any, gguf: Any) -> list[str]:
    space = _byte_symbols()[0x20]
    merges = [f"{pair[0]} {pair[1]}" for pair in SYLLABLES.split()]
    merges += [f"{space} {letter}" for letter in SPACED_LETTERS]
    merges += [f"{space}t he", f"{space}a nd", "in g", "ti on"]
    vocabulary = [*SPECIAL_TOKENS, *_byte_symbols(), *(merge.replace(" ", "") for merge in merges)]
    types = [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    types += [gguf.TokenType.NORMAL] * (len(vocabulary) - len(SPECIAL_TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(SPECIAL_TOKENS.index("<|endoftext|>"))
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_vocab_size(len(vocabulary))
    return vocabulary


def _logit_bias(vocabulary: list[str]) -> list[float]:
    # Random logits would choose any byte; keep to letters so that the nonsense is printable UTF-8.
    space = _byte_symbols()[0x20]
    biases = []
    for token_id, token in enumerate(vocabulary):
        letters = token.replace(space, "")
        if token_id == END_OF_TURN:
            biases.append(END_BIAS)
        elif (
            token_id < len(SPECIAL_TOKENS)
            or not letters.isascii()
            or not (letters.islower() or token == space)
        ):
            biases.append(UNPRINTABLE_BIAS)
        else:
            biases.append(1.0 if len(token) > 1 else -1.0)
    return biases


def _weights(random: "np.random.Generator", vocabulary: list[str], width: int, layers: int) -> dict[str, Any]:
    import numpy as np

    def matrix(rows: int, columns: int, scale: float) -> "NDArray[np.float32]":
        values = random.standard_normal((rows, columns), dtype=np.float32)
        values *= np.float32(scale / columns**0.5)
        return values

    # Dimension 0 of the hidden state is kept constant through all layers, so that the output matrix's
    # column 0 acts as a bias on the logits, which the architecture itself does not have.
    def writes_not_to_first(values: "NDArray[np.float32]") -> "NDArray[np.float32]":
        values[0] = 0.0
        return values

    ones = np.ones(width, dtype=np.float32)
    embedding = random.standard_normal((len(vocabulary), width), dtype=np.float32)
    embedding[:, 0] = width**0.5
    tensors: dict[str, Any] = {"token_embd.weight": embedding}
    for layer in range(layers):
        block = f"blk.{layer}"
        tensors[f"{block}.attn_norm.weight"] = ones
        for part in ("attn_q", "attn_k", "attn_v"):
            tensors[f"{block}.{part}.weight"] = matrix(width, width, 1.0)
        tensors[f"{block}.attn_output.weight"] = writes_not_to_first(matrix(width, width, 1.0))
        tensors[f"{block}.ffn_norm.weight"] = ones
        tensors[f"{block}.ffn_gate.weight"] = matrix(3 * width, width, 1.0)
        tensors[f"{block}.ffn_up.weight"] = matrix(3 * width, width, 1.0)
        tensors[f"{block}.ffn_down.weight"] = writes_not_to_first(matrix(width, 3 * width, 1.0))
    tensors["output_norm.weight"] = ones
    output = matrix(len(vocabulary), width, LOGIT_SPREAD)
    # The final norm divides by the root mean square, which grows with each layer's contribution.
    constant = (width / (2.0 + 0.5 * layers)) ** 0.5
    output[:, 0] = np.array(_logit_bias(vocabulary), dtype=np.float32) / np.float32(constant)
    tensors["output.weight"] = output
    return tensors
