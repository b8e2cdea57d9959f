"""What a kind of model does where its configuration leaves it out.

Sources are the configuration classes of Hugging Face transformers (`configuration_<kind>.py`), where an
absent key has a meaning of its own, and public config.json files. Kinds are told by words of what the model
calls itself.
"""

from trivet.catalog.config_fields import ConfigFields

_DEFAULT_VOCAB = (
    ("gemma", 262_144),
    ("qwen35", 248_320),
    ("qwen", 151_936),
    ("llama", 128_256),
    ("mistral", 131_072),
)
_CONTEXT_OF_KIND = (
    ("gemma4", 262_144),
    ("gemma3", 131_072),
    ("gemma2", 8192),
    ("qwen35", 262_144),
    ("qwen3next", 262_144),
    ("qwen3", 40_960),
    ("qwen2", 32_768),
    ("gptoss", 131_072),
    ("llama4", 1_048_576),
    ("deepseekv3", 163_840),
    ("nemotronh", 262_144),
    ("mixtral", 32_768),
)
"""The longest context of kinds, where a partial record leaves it out (public config.json files)."""
_TIED_BY_DEFAULT = (
    "gemma",
    "mpt",
    "bloom",
    "cohere",
    "opt",
    "gpt2",
    "bert",
    "lfm2",
    "phi4flash",
    "commandr",
    "starcoder2",
)
"""Kinds whose configurations leave `tie_word_embeddings` out and mean true (transformers' own defaults)."""
_ENCODERS = ("bert", "roberta", "t5encoder", "modernbert", "gte")
_SLIDING = (
    # (kind, every n-th layer attends to everything, window of the others)
    ("gemma2", 2, 4096),
    ("gemma3n", 5, 512),
    ("gemma3", 6, 1024),
    ("gemma4", 6, 1024),
    ("gptoss", 2, 128),
    ("cohere2", 4, 4096),
    ("mimov2", 6, 128),
    ("exaone4", 4, 4096),
    ("olmo3", 4, 4096),
)
_CHUNK_TOKENS = 8192
_WINDOW_TOKENS = 4096
_TWO_MATRIX = ("opt", "gpt2", "gptneo", "gptj", "gptbigcode", "bloom", "falcon", "mpt", "starcoder2",
               "phimsft", "phiforcausallm", "phi2", "nemotron", "bert", "roberta", "pythia")  # fmt: skip
_GATED_ANYWAY = (
    "deci",
    "nomic",
    "modernbert",
    "phi3",
    "phi4",
    "mamba",
    "falconh1",
    "falcon3",
    "llamanemotron",
)


def default_vocabulary(fields: ConfigFields) -> int:
    """Return the size of a kind's vocabulary."""
    return next((size for kind, size in _DEFAULT_VOCAB if fields.family(kind)), 128_256)


def default_context(fields: ConfigFields) -> int | None:
    """Return a kind's longest context; None where it is not known."""
    return next((tokens for kind, tokens in _CONTEXT_OF_KIND if fields.family(kind)), None)


def tied_by_default(fields: ConfigFields) -> bool:
    """Tell whether a kind's output matrix is its token embedding where nothing is said."""
    return fields.family(*_TIED_BY_DEFAULT) or fields.family_text == "mamba2"


def is_encoder(fields: ConfigFields) -> bool:
    """Tell models that answer with vectors, and keep nothing of their tokens."""
    return fields.family(*_ENCODERS)


def learns_positions(fields: ConfigFields) -> bool:
    """Tell kinds that have an embedding for each position."""
    known = fields.family("opt", "gpt2") or is_encoder(fields)
    return known and not fields.family("nomic", "modernbert")


def is_pure_mamba(fields: ConfigFields) -> bool:
    """Tell models of Mamba layers alone."""
    return fields.family_text.startswith(("mamba", "falconmamba"))


def full_every(fields: ConfigFields) -> int | None:
    """Return which layers of a sliding kind attend to everything: every n-th; None for other kinds."""
    return next((every for kind, every, _ in _SLIDING if fields.family(kind)), None)


def default_window(fields: ConfigFields) -> int:
    """Return how far a kind's sliding layers see."""
    if fields.family("llama4"):
        return _CHUNK_TOKENS
    return next((window for kind, _, window in _SLIDING if fields.family(kind)), _WINDOW_TOKENS)


def matrices_of(fields: ConfigFields) -> int:
    """Tell a gated feed-forward part (3 matrices) from a plain one (2)."""
    if str(fields.raw("mlp") or "").startswith("2"):
        return 2
    if fields.raw("hybrid_override_pattern"):
        return 2
    activation = str(fields.raw("activation_function") or "")
    if "glu" in activation.lower():
        return 3
    if fields.family(*_GATED_ANYWAY):
        return 3
    return 2 if fields.family(*_TWO_MATRIX) or fields.family_text == "phi" else 3


def default_width(fields: ConfigFields, hidden: int) -> int | None:
    """Return the width of a feed-forward part that a kind takes where its config leaves it out; else None."""
    block = fields.number("block_ff_dim")
    if block:
        # LFM2 counts the gate in, and rounds up.
        if fields.flag("block_auto_adjust_ff_dim") is False:
            return block
        step = fields.number("block_multiple_of") or 256
        return -(-(block * 2 // 3) // step) * step
    if fields.family_text.startswith("mamba"):
        return hidden
    return round(hidden * float(fields.raw("expansion_ratio") or 4)) if matrices_of(fields) == 2 else None
