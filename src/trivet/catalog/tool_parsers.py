"""Which of vLLM's parsers reads a model's tool calls, and which its thinking; else both stay text. Pure.

Names as vLLM 0.32 registers them (`vllm/tool_parsers/__init__.py`, `vllm/reasoning/__init__.py`); which model
takes which as its documentation says (docs/features/tool_calling.md, reasoning_outputs.md) and, for Nemotron
3, Qwen's models that always think, GLM-4.7 and Phi-4-reasoning, their makers' model cards."""

from trivet.catalog.model_card import ModelCard

_BY_BEGINNING: tuple[tuple[str, str | None], ...] = (
    # The first beginning that fits counts.
    ("qwen3-coder", "qwen3_coder"),
    ("qwen3.", "qwen3_coder"),
    ("qwen2.5-coder", None),
    ("qwen", "hermes"),
    ("qwq", "hermes"),
    ("llama-4", "llama4_pythonic"),
    ("llama-3", "llama3_json"),
    ("mistral", "mistral"),
    ("ministral", "mistral"),
    ("devstral", "mistral"),
    ("magistral", "mistral"),
    ("granite-4", "granite4"),
    ("granite-3", "granite"),
    ("gpt-oss", "openai"),
    ("glm-4.7", "glm47"),
    ("glm-4.5", "glm45"),
    ("glm-4.6", "glm45"),
    ("deepseek-r1-distill", None),
    ("deepseek-v3.1", "deepseek_v31"),
    ("deepseek-v3.2", "deepseek_v32"),
    ("deepseek-v3", "deepseek_v3"),
    ("deepseek-r1-0528-qwen3", None),
    ("deepseek-r1", "deepseek_v3"),
    ("gemma-4", "gemma4"),
    ("phi-4-mini", "phi4_mini_json"),
    ("nemotron-3", "qwen3_coder"),
    ("command-", "cohere_command3"),
    ("kimi-k2", "kimi_k2"),
    ("minimax-m2", "minimax_m2"),
    ("seed-oss", "seed_oss"),
    ("olmo-3", "olmo3"),
    ("lfm2", "lfm2"),
)

_THINKING_BY_BEGINNING: tuple[tuple[str, str], ...] = (
    ("qwen3", "qwen3"),
    ("qwq", "deepseek_r1"),
    ("deepseek-r1", "deepseek_r1"),
    ("deepseek-v3", "deepseek_v3"),
    ("gemma-4", "gemma4"),
    ("gpt-oss", "openai_gptoss"),
    ("glm-4", "glm45"),
    ("nemotron-3", "nemotron_v3"),
    ("phi-4-reasoning", "deepseek_r1"),
)


def tool_parser(card: ModelCard) -> str | None:
    """Return the parser for a model's tool calls; None where vLLM has none, or the model makes none."""
    if "tools" not in card.capabilities:
        return None
    return next((parser for start, parser in _BY_BEGINNING if card.id.startswith(start)), None)


def reasoning_parser(card: ModelCard) -> str | None:
    """Return the parser that parts a model's thinking from its answer; None where it does not think."""
    if "thinking" not in card.capabilities:
        return None
    if card.id.startswith("qwen3") and "-thinking" in card.id:
        # Their template opens the thinking itself, so the answer begins within it.
        return "deepseek_r1"
    return next((parser for start, parser in _THINKING_BY_BEGINNING if card.id.startswith(start)), None)
