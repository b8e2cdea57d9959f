"""Model cards made for planning tests: structures of well-known sizes, round figures."""

from datetime import date
from typing import Any

from trivet.catalog.architecture import Architecture
from trivet.catalog.model_card import Capability, Catalog, ModelCard, Variant

# Billions of parameters: layers, hidden, attention heads, KV heads, feed-forward size, published figure.
DENSE: dict[float, tuple[int, int, int, int, int, float]] = {
    0.5: (24, 896, 14, 2, 4864, 15.0),
    1.5: (28, 1536, 12, 2, 8960, 30.0),
    3: (36, 2048, 16, 2, 11008, 43.0),
    4: (36, 2560, 32, 8, 9728, 50.0),
    7: (28, 3584, 28, 4, 18944, 56.0),
    8: (36, 4096, 32, 8, 12288, 57.0),
    12: (40, 5120, 32, 8, 14336, 60.0),
    14: (48, 5120, 40, 8, 13824, 63.0),
    24: (40, 5120, 32, 8, 32768, 66.0),
    32: (64, 5120, 40, 8, 27648, 69.0),
    70: (80, 8192, 64, 8, 28672, 72.0),
    123: (88, 12288, 96, 8, 28672, 73.0),
    405: (126, 16384, 128, 8, 53248, 75.0),
}
# Billions in all: layers, hidden, heads, KV heads, expert's feed-forward size, experts, experts used, figure.
MIXTURES: dict[float, tuple[int, int, int, int, int, int, int, float]] = {
    30: (48, 2048, 32, 4, 768, 128, 8, 66.0),
    106: (46, 4096, 96, 8, 1408, 128, 8, 74.0),
    235: (94, 4096, 64, 4, 1536, 128, 8, 77.0),
}
VOCABULARY = 151_936
CONTEXT_TOKENS = 131_072


def dense_card(size: float, *, family: str = "made", **changes: Any) -> ModelCard:
    """Return a card of a dense model of one of the sizes in DENSE."""
    layers, hidden, heads, kv_heads, ffn, quality = DENSE[size]
    config = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128 if size > 1 else 64,
        "intermediate_size": ffn,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": size < 4,
    }
    return made_card(f"{family}-{size:g}b", config, quality, family=family, **changes)


def mixture_card(size: float, *, family: str = "made", **changes: Any) -> ModelCard:
    """Return a card of a mixture of experts of one of the sizes in MIXTURES."""
    layers, hidden, heads, kv_heads, ffn, experts, used, quality = MIXTURES[size]
    config = {
        "model_type": "qwen3_moe",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "intermediate_size": 4 * ffn,
        "moe_intermediate_size": ffn,
        "num_experts": experts,
        "num_experts_per_tok": used,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    return made_card(f"{family}-{size:g}b-moe", config, quality, family=family, **changes)


def made_card(
    name: str,
    config: dict[str, Any],
    quality: float,
    *,
    family: str = "made",
    capabilities: frozenset[Capability] = frozenset({"tools"}),
    context_tokens: int = CONTEXT_TOKENS,
) -> ModelCard:
    """Return a card with the forms that models usually come in."""
    architecture = Architecture.from_config(config, name=name)
    return ModelCard(
        id=name,
        family=family,
        released=date(2026, 1, 1),
        licence="apache-2.0",
        context_tokens=context_tokens,
        capabilities=capabilities,
        total_params=architecture.total_params,
        active_params=architecture.active_params,
        quality=quality,
        quality_source="made",
        source="made",
        config=config,
        variants=(
            Variant(engine="ollama", ref=f"{name}:q4", quant="q4_k_m"),
            Variant(engine="ollama", ref=f"{name}:q8", quant="q8_0"),
            Variant(engine="vllm", ref=f"made/{name}", dtype="bf16"),
            Variant(engine="vllm", ref=f"made/{name}-FP8", dtype="fp8"),
            Variant(engine="vllm", ref=f"made/{name}-AWQ", quant="awq"),
        ),
    )


def made_catalog(*families: str) -> Catalog:
    """Return a catalog with every size, once for each family."""
    cards = [
        card
        for family in families or ("made",)
        for card in (
            *(dense_card(size, family=family) for size in DENSE),
            *(mixture_card(size, family=family) for size in MIXTURES),
        )
    ]
    return Catalog(cards)
