"""A model's sizes: as its configuration states them, or as they follow from what it states."""

from dataclasses import dataclass

from trivet.catalog.config_fields import ConfigFields
from trivet.catalog.kind_defaults import default_vocabulary, default_width

_DENSE_WIDTHS = 13.0
"""Parameters of a dense layer in squares of the hidden size: 11.5 (Qwen3 8B) to 15.5 (Gemma 3 12B)."""


@dataclass(slots=True, kw_only=True)
class Dimensions:
    """A model's sizes, each as stated or as derived."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    experts: int
    experts_used: int
    expert_ffn: int
    solved: bool = False
    """A size of the layers was derived from the number of parameters."""
    guessed: bool = False
    """A size was taken from the habit of models of this size."""

    @classmethod
    def read(cls, fields: ConfigFields, assumed: list[str]) -> "Dimensions":
        """Read what the config says, derive the rest, and say so in `assumed`."""
        pattern = fields.raw("hybrid_override_pattern")
        layers = len(pattern) if isinstance(pattern, str) else fields.number("layers") or 0
        total = fields.stated_total()[0]
        found = cls(
            hidden=0, layers=layers, heads=0, kv_heads=0, head_dim=0, ffn=0, vocab=0,
            experts=0, experts_used=0, expert_ffn=0,
        )  # fmt: skip
        found._read_width(fields, total, assumed)
        found._read_heads(fields, assumed)
        found._read_experts(fields, assumed)
        return found

    def _read_width(self, fields: ConfigFields, total: float | None, assumed: list[str]) -> None:
        vocab = fields.number("vocab")
        if vocab is None:
            vocab = default_vocabulary(fields)
            assumed.append(f"vocab_size {vocab}")
            self.guessed = True
        hidden = fields.number("hidden")
        if hidden is None:
            # Layers and an embedding: k L h^2 + V h = N.
            k = _DENSE_WIDTHS * self.layers
            root = (vocab * vocab + 4 * k * (total or 7e9)) ** 0.5
            hidden = max(256, round((root - vocab) / (2 * k) / 256) * 256)
            assumed.append(f"hidden_size {hidden}")
            self.guessed = True
        self.vocab, self.hidden = vocab, hidden

    def _read_heads(self, fields: ConfigFields, assumed: list[str]) -> None:
        heads = fields.number("heads")
        head_dim = fields.number("head_dim", "head_dim_k")
        if heads is None:
            heads = max(1, self.hidden // (head_dim or 128))
            assumed.append(f"num_attention_heads {heads}")
        kv_heads = fields.number("kv_heads")
        if fields.flag("multi_query") and not fields.flag("new_decoder_architecture"):
            kv_heads = 1
        if kv_heads is None:
            # Configurations of models with plain multi-head attention leave the key out.
            kv_heads = 8 if fields.family("deci") else heads
            assumed.append(f"num_key_value_heads {kv_heads}")
        if head_dim is None:
            head_dim = max(1, self.hidden // heads)
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim

    def _read_experts(self, fields: ConfigFields, assumed: list[str]) -> None:
        self.experts = fields.number("experts") or 0
        if self.experts == 1:
            self.experts = 0
        ffn = fields.number("ffn")
        self.expert_ffn = (fields.number("expert_ffn") or ffn or 0) if self.experts else 0
        if self.experts:
            used = fields.number("experts_used")
            if used is None:
                used = min(8, self.experts)
                assumed.append(f"num_experts_per_tok {used}")
            self.experts_used = min(used, self.experts)
        if ffn is None and not self.expert_ffn:
            ffn = default_width(fields, self.hidden)
        if ffn is None and not self.expert_ffn:
            ffn = round(self.hidden * 3.5)
            assumed.append(f"intermediate_size {ffn}, to be corrected by the number of parameters")
            self.solved = True
        self.ffn = ffn or 0
