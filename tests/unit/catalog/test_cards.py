"""The model cards: whole, consistent with themselves, and found by the names that people write."""

import re
from collections import Counter
from pathlib import Path

import pytest

from trivet.catalog.architecture import Architecture
from trivet.catalog.cards import SHIPPED, Catalog, ModelCard, Variant, load_catalog
from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.model_card import INTERPOLATED, plain
from trivet.domain.errors import ConfigError

ROOT = Path(__file__).parents[3]
CATALOG = load_catalog()
CHAT = [card for card in CATALOG.cards if not card.is_embedding]
BITS_BY_QUANT = {
    # All of the file over all parameters. Embeddings stay at 6 or 8 bits, Nemotron's Mamba layers at 8.
    "q4_0": (4.3, 5.2),
    "q4_k_m": (4.4, 6.9),
    "q8_0": (8.2, 9.6),
    "f16": (15.5, 17.5),
    "bf16": (15.5, 17.5),
    "mxfp4": (4.2, 5.6),
}
# Gemma 4's keep the embeddings of each layer at 16 bits; Ollama's small Qwen3 hold the tied embedding twice.
LESS_QUANTISED = {"gemma-4-e2b-it", "gemma-4-e4b-it", "qwen3-0.6b", "qwen3-1.7b"}


def names(cards: list[ModelCard]) -> list[str]:
    """Return the ids of cards, for a parameterised test."""
    return [card.id for card in cards]


def test_the_catalog_is_broad() -> None:
    """At least sixty cards over the families that people run, from CPU sizes to what fills eight GPUs."""
    assert len(CHAT) >= 60
    families = {card.family for card in CATALOG.cards}
    assert families >= {
        *(
            "qwen2.5",
            "qwen3",
            "qwen3-next",
            "qwen3.5",
            "qwen3.6",
            "llama-3.1",
            "llama-3.2",
            "llama-3.3",
            "llama-4",
        ),
        *(
            "gemma-2",
            "gemma-3",
            "gemma-4",
            "mistral",
            "mistral-nemo",
            "mistral-small",
            "mixtral",
            "deepseek-v3",
        ),
        *(
            "deepseek-r1-distill",
            "phi-3.5",
            "phi-4",
            "gpt-oss",
            "glm-4",
            "glm-4.5",
            "granite-3.3",
            "granite-4.0",
        ),
        *(
            "command-r",
            "smollm2",
            "tinyllama",
            "nemotron-3",
            "qwen3-embedding",
            "nomic-embed",
            "bge",
            "mxbai-embed",
        ),
    }
    assert sum(card.is_embedding for card in CATALOG.cards) >= 5
    assert sum("vision" in card.capabilities for card in CHAT) >= 10


def test_the_file_is_where_operators_look() -> None:
    """`config/models.yaml` is the file that the package ships."""
    assert (ROOT / "config" / "models.yaml").resolve() == SHIPPED.resolve()


def test_ids_and_refs_are_unique() -> None:
    """No two cards share an id, and no form of a model is listed twice."""
    assert [i for i, n in Counter(plain(card.id) for card in CATALOG.cards).items() if n > 1] == []
    refs = Counter(variant.ref.lower() for card in CATALOG.cards for variant in card.variants)
    assert [ref for ref, n in refs.items() if n > 1] == []


@pytest.mark.parametrize("card", CATALOG.cards, ids=names(list(CATALOG.cards)))
def test_the_dimensions_agree_with_the_stated_parameters(card: ModelCard) -> None:
    """Embeddings, layers and output, counted from the dimensions, come to the total within 3 %.

    Makers state active parameters with or without the input embedding, which is looked up, not multiplied.
    """
    architecture = card.architecture
    assert architecture.total_params == pytest.approx(card.total_params, rel=0.03)
    counts = (architecture.active_params, architecture.active_params - architecture.embedding_params)
    assert any(count == pytest.approx(card.active_params, rel=0.1) for count in counts) or (
        not architecture.is_moe
    )
    assert card.active_params <= card.total_params


@pytest.mark.parametrize("card", CATALOG.cards, ids=names(list(CATALOG.cards)))
def test_a_card_is_whole(card: ModelCard) -> None:
    """Everything that a plan shows is there, and nothing was assumed about the structure."""
    assert 0 < card.quality <= 100
    assert card.quality_source
    assert card.source
    assert card.licence != "unknown"
    assert 512 <= card.context_tokens <= 1_048_576
    assert card.architecture.max_context_tokens is not None
    assert card.context_tokens <= card.architecture.max_context_tokens
    assert [step for step in card.architecture.assumed if "num_" in step or "size" in step] == []
    assert {variant.engine for variant in card.variants} <= {"ollama", "vllm"}
    assert not card.architecture.is_moe or card.active_params < card.total_params


@pytest.mark.parametrize("card", CATALOG.cards, ids=names(list(CATALOG.cards)))
def test_the_sizes_agree_with_the_quantisation(card: ModelCard) -> None:
    """A file's bytes over the parameters are as many bits as its quantisation leaves."""
    for variant in card.variants:
        if variant.weights_bytes is None or variant.quant is None or card.id in LESS_QUANTISED:
            continue
        low, high = BITS_BY_QUANT[variant.quant]
        assert low <= variant.weights_bytes * 8 / card.total_params <= high, variant


def test_quality_grows_with_size_within_a_family() -> None:
    """Of two chat models of one family and one kind of thinking, the larger one is not worse."""
    wrong = []
    for one in CHAT:
        for other in CHAT:
            alike = (one.family, "thinking" in one.capabilities) == (
                other.family,
                "thinking" in other.capabilities,
            )
            # The 2.5th of a family's generations (2507) beats larger ones of the first.
            same_time = abs((one.released - other.released).days) < 60
            larger = (
                other.active_params > 1.2 * one.active_params and other.total_params > 1.2 * one.total_params
            )
            if alike and same_time and larger and other.quality < one.quality:
                wrong.append((one.id, other.id))
    assert wrong == []


def test_most_figures_are_published() -> None:
    """At least two thirds of the quality figures are somebody's published measurement."""
    published = sum(card.quality_is_published for card in CATALOG.cards)
    assert published >= 2 / 3 * len(CATALOG.cards)
    assert all(
        card.quality_source.startswith(("MMLU-Pro", "MTEB")) or card.quality_source == INTERPOLATED
        for card in CATALOG.cards
    )


@pytest.mark.parametrize(
    ("written", "card_id"),
    [
        ("qwen2.5-7b-instruct", "qwen2.5-7b-instruct"),
        ("qwen2.5:7b", "qwen2.5-7b-instruct"),
        ("ollama/qwen2.5:32b", "qwen2.5-32b-instruct"),
        ("vllm/qwen2.5:72b", "qwen2.5-72b-instruct"),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", "qwen2.5-72b-instruct"),
        ("llama3.1:8b-instruct-q5_K_M", "llama-3.1-8b-instruct"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("llama-3.3-70b", "llama-3.3-70b-instruct"),
        ("gemma3:27b", "gemma-3-27b-it"),
        ("google_gemma-3-27b-it-qat-Q4_K_M.gguf", "gemma-3-27b-it"),
        ("gemma-3-27b-it-Q4_0.gguf", "gemma-3-27b-it"),
        ("unsloth/Qwen3-4B-Instruct-2507-GGUF", "qwen3-4b-instruct-2507"),
        ("Qwen3-32B-Q4_0.gguf", "qwen3-32b"),
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("gpt-oss", "gpt-oss-20b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("mistral-small3.2:latest", "mistral-small-3.2-24b-instruct-2506"),
        ("mixtral:8x7b", "mixtral-8x7b-instruct-v0.1"),
        ("command-r:35b", "command-r-08-2024"),
        ("deepseek-r1:32b", "deepseek-r1-distill-qwen-32b"),
        ("llama4:scout", "llama-4-scout-17b-16e-instruct"),
        ("nomic-embed-text", "nomic-embed-text-v1.5"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "llama-3.1-8b-instruct"),
        ("unsloth/Llama-3.3-70B-Instruct-bnb-4bit", "llama-3.3-70b-instruct"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama-3.3-70b-instruct"),
        ("Qwen3-235B-A22B-128K-Q6_K-00001-of-00004.gguf", "qwen3-235b-a22b"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "qwen3-30b-a3b"),
        ("Qwen3-Next-80B-A3B W4A16", "qwen3-next-80b-a3b-instruct"),
        ("mistral-small3.1:latest (24b)", "mistral-small-3.1-24b-instruct-2503"),
        # Ollama's library means its 8B by the bare name, the repository and its files are the 671B.
        ("deepseek-r1", "deepseek-r1-0528-qwen3-8b"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-r1-0528"),
        ("DeepSeek-R1-F16.gguf", "deepseek-r1-0528"),
        # The two are different models, whose names differ by a joint.
        ("qwen3:4b", "qwen3-4b-thinking-2507"),
        ("qwen3-4b", "qwen3-4b"),
    ],
)
def test_names_as_people_write_them(written: str, card_id: str) -> None:
    """An id, an Ollama tag, a Hugging Face id, a file's name: all find the card."""
    assert CATALOG.find(written).id == card_id


def test_every_name_of_a_card_finds_it() -> None:
    """Ids and refs lead back to their own card; names that two would claim belong to the first."""
    lost = [
        (name, card.id) for card in CATALOG.cards for name in card.names() if CATALOG.find(name).id != card.id
    ]
    assert lost == []


@pytest.mark.parametrize(
    ("written", "near"),
    [("qwen2.5-8b-instruct", "qwen2.5-7b-instruct"), ("lama3.1:8b", "llama-3.1-8b-instruct")],
)
def test_an_unknown_name_lists_near_ones(written: str, near: str) -> None:
    """What is unknown is refused with what was probably meant."""
    with pytest.raises(ConfigError) as caught:
        CATALOG.find(written)
    assert near in caught.value.details["near"]
    assert near in str(caught.value)


def test_a_variant_is_found_by_its_ref() -> None:
    """A tag or id names one form exactly; another quantisation of the same model is none of the forms."""
    found = CATALOG.with_variant("qwen2.5:7b")
    assert found is not None
    card, variant = found
    assert (card.id, variant.quant, variant.weights_bytes) == ("qwen2.5-7b-instruct", "q4_k_m", 4683073952)
    assert CATALOG.with_variant("qwen2.5:7b-instruct-q2_K") is None


OWN = """
- id: sample-1b
  family: sample
  released: 2026-01-01
  context_tokens: 4096
  params_b: {params}
  quality: 20
  quality_source: our own tests
  source: its config.json
  architecture: {{model_type: llama, hidden_size: 2048, num_hidden_layers: 16, num_attention_heads: 32,
    num_key_value_heads: 8, intermediate_size: 8192, vocab_size: 128256, tie_word_embeddings: true}}
  variants:
  - {{engine: ollama, ref: "sample:1b", quant: Q4_K_M}}
"""


def test_operators_cards_join_and_replace(tmp_path: Path) -> None:
    """A file of one's own adds cards, and replaces those whose ids it repeats."""
    path = tmp_path / "models.yaml"
    text = OWN.format(params="1.24")
    path.write_text(text + text.replace("sample-1b", "phi-4"), encoding="utf-8")
    catalog = load_catalog(path)
    assert len(catalog.cards) == len(CATALOG.cards) + 1
    assert catalog.find("sample:1b").variants == (Variant(engine="ollama", ref="sample:1b", quant="q4_k_m"),)
    assert catalog.find("phi-4").family == "sample"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OWN.format(params="3.5"), "has 1.24 B parameters, its params_b says 3.50"),
        (OWN.format(params="1.24").replace("num_hidden_layers", "layers_count"), "cannot be read"),
        (
            OWN.format(params="1.24").replace("family: sample", "famly: sample"),
            "entry 1 (sample-1b): family:",
        ),
        (OWN.format(params="1.24").replace("engine: ollama", "engine: tgi"), "variants.0.engine"),
        (OWN.format(params="1.24").replace("sample-1b", "Sample 1B"), "entry 1 (Sample 1B): id:"),
    ],
)
def test_wrong_cards_are_named(tmp_path: Path, text: str, expected: str) -> None:
    """A wrong card is refused with its file, its id and what is wrong, dimensions included."""
    path = tmp_path / "models.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_examples_of_the_reference_load(tmp_path: Path) -> None:
    """The card and the GPU that docs/reference/models.md shows are entries as they stand."""
    page = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    cards, gpus = tmp_path / "models.yaml", tmp_path / "gpus.yaml"
    cards.write_text(blocks[1], encoding="utf-8")
    gpus.write_text(blocks[2], encoding="utf-8")
    assert load_catalog(cards).find("our-support:8b").quality == 55
    assert load_gpu_table(gpus).find("RTX4090-48GB").memory_gib == 48


def test_layers_without_a_cache_are_twice_as_wide() -> None:
    """Gemma 4 E2B, counted without its stated total: 5.1 B less 0.3 B of audio and a little."""
    config = {
        key: value
        for key, value in CATALOG.find("gemma-4-e2b-it").config.items()
        if key not in ("total_params", "use_double_wide_mlp")
    }
    narrow = Architecture.from_config(config)
    wide = Architecture.from_config({**config, "use_double_wide_mlp": True})
    assert wide.total_params - narrow.total_params == 20 * 3 * 1536 * 6144
    assert wide.total_params == pytest.approx(4.75e9, rel=0.02)


def test_an_empty_catalog_finds_nothing() -> None:
    """Without cards every name is unknown, and none is near."""
    with pytest.raises(ConfigError) as caught:
        Catalog([]).find("anything")
    assert caught.value.details["near"] == []
