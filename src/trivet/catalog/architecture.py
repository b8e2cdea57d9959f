"""What a model is made of, read from its config.json: enough to say how much memory it needs.

The config may be partial. What is missing is derived: from other fields, from what the model's kind does by
default, from the number of parameters that the record or the model's name states. `assumed` names each step.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trivet.catalog.config_fields import ConfigFields
from trivet.catalog.dimensions import Dimensions
from trivet.catalog.kind_defaults import default_context, is_encoder, learns_positions, tied_by_default
from trivet.catalog.layer_plan import plan_layers
from trivet.catalog.layers import Layer, Mixer
from trivet.catalog.vision_tower import vision_params
from trivet.domain.errors import ConfigError

LAYERS_MAX = 2000
"""Each layer becomes an object; a config with a slipped digit must not fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model's structure; frozen and pure.

    Parameters are counted from the structure, as the sum over embeddings, layers and output, and agree with
    published totals within about 2 % where the config is whole.
    """

    name: str
    family: str
    """The model's own word for its kind, letters and digits only: `qwen3forcausallm`."""
    hidden_size: int
    attention_heads: int
    kv_heads: int
    vocab_size: int
    plan: tuple[Layer, ...] = field(repr=False)
    """Every layer, first to last."""
    embedding_params: int
    """The token embedding (and absolute positions, where the model learns them)."""
    output_params: int
    """The output matrix; 0 where it is the token embedding (tied) or where the model has none."""
    per_layer_embedding_params: int = 0
    """Embeddings that each layer adds (Gemma 3n and 4); llama.cpp can keep them in host memory."""
    vision_params: int = 0
    experts: int = 0
    experts_used: int = 0
    ffn_size: int = 0
    """The widest dense feed-forward part, for the peak of activations."""
    expert_ffn_size: int = 0
    max_context_tokens: int | None = None
    is_encoder: bool = False
    quantization: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The checkpoint's own quantization_config, where it has one."""
    torch_dtype: str | None = None
    state_dtype: str | None = None
    """What the config wants recurrent states kept in; None where it does not say."""
    latent_head_dims: tuple[int, int] = (0, 0)
    """(key, value) elements of one head before compression, for latent attention."""
    keeps_latent: bool = True
    """False for a GGUF file from before llama.cpp knew latent attention: it keeps every head's keys and
    values. Such a file says a key length of 192 where newer ones say 576 (and one key head)."""
    assumed: tuple[str, ...] = ()
    groups: tuple[tuple[Layer, int], ...] = field(init=False, repr=False, compare=False)
    """Each distinct layer with how often it is there, since most models repeat few."""
    group_of: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """For every layer of `plan` its place in `groups`."""

    def __post_init__(self) -> None:
        counts = Counter(self.plan)
        places = {layer: place for place, layer in enumerate(counts)}
        object.__setattr__(self, "groups", tuple(counts.items()))
        object.__setattr__(self, "group_of", tuple(places[layer] for layer in self.plan))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, name: str = "") -> "Architecture":
        """Read a (partial) Hugging Face config.json, or a record with the same names.

        Raises:
            ConfigError: it does not even say how many layers the model has.
        """
        fields = ConfigFields(config, name=name)
        assumed: list[str] = []
        pattern = fields.raw("hybrid_override_pattern")
        layers = len(pattern) if isinstance(pattern, str) else fields.number("layers")
        if layers is None:
            raise ConfigError(
                f"The architecture of {fields.name or 'the model'} cannot be read: no num_hidden_layers.",
                hint="Give a Hugging Face config.json, or a JSON object with its names.",
            )
        if layers > LAYERS_MAX:
            raise ConfigError(
                f"{fields.name or 'The model'} would have {layers} layers; the deepest that are known have "
                f"fewer than 200, and {LAYERS_MAX} is the most that is read."
            )
        return _build(fields, Dimensions.read(fields, assumed), assumed)

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.plan)

    @property
    def is_moe(self) -> bool:
        """Whether it has routed experts."""
        return self.experts > 0

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the token embedding."""
        return self.output_params == 0 and not self.is_encoder

    @property
    def total_params(self) -> int:
        """All parameters, vision included, drafter layers (MTP) not."""
        outside = self.embedding_params + self.output_params + self.per_layer_embedding_params
        return outside + self.vision_params + self.layer_params

    @property
    def layer_params(self) -> int:
        """Parameters of all layers, without embeddings, output and vision."""
        return sum(layer.parameters.total * count for layer, count in self.groups)

    @property
    def active_params(self) -> int:
        """Parameters that one token touches: all but the experts it is not routed to."""
        if not self.experts:
            return self.total_params
        routed = sum(layer.parameters.experts * count for layer, count in self.groups)
        return self.total_params - round(routed * (1 - self.experts_used / self.experts))

    @property
    def has_states(self) -> bool:
        """Whether some layers keep a recurrent state."""
        return any(layer.mixer is Mixer.STATE for layer, _ in self.groups)

    @property
    def is_hybrid(self) -> bool:
        """Whether layers differ in what they remember."""
        kinds = {layer.mixer for layer, _ in self.groups} - {Mixer.NONE}
        return len(kinds) > 1

    def scaled_to(self, total_params: float) -> "Architecture":
        """Return the same structure with so many parameters in all: layers stretched, embeddings kept."""
        inside = self.layer_params
        wanted = total_params - (self.total_params - inside)
        if inside <= 0 or wanted <= 0:
            return self
        factor = wanted / inside
        plan = tuple(
            dataclasses.replace(
                layer,
                parameters=dataclasses.replace(
                    layer.parameters,
                    **{
                        part.name: round(getattr(layer.parameters, part.name) * factor)
                        for part in dataclasses.fields(layer.parameters)
                    },
                ),
            )
            for layer in self.plan
        )
        return dataclasses.replace(self, plan=plan)


def _build(fields: ConfigFields, dimensions: Dimensions, assumed: list[str]) -> Architecture:
    vocab, hidden = dimensions.vocab, dimensions.hidden
    encoder = is_encoder(fields)
    tied = fields.flag("tie_word_embeddings")
    if tied is None:
        tied = tied_by_default(fields)
        if not encoder:
            assumed.append(f"embeddings {'tied' if tied else 'not tied'} (the default of its kind)")
    positions = 0
    if learns_positions(fields):
        positions = (fields.number("context") or 0) * hidden
    plan = plan_layers(fields, dimensions, assumed)
    per_layer = fields.number("hidden_size_per_layer_input") or 0
    architecture = Architecture(
        name=fields.name,
        family=fields.family_text,
        hidden_size=hidden,
        attention_heads=dimensions.heads,
        kv_heads=dimensions.kv_heads,
        vocab_size=vocab,
        plan=plan,
        embedding_params=vocab * hidden + positions,
        output_params=0 if tied or encoder else vocab * hidden,
        per_layer_embedding_params=(fields.number("vocab_size_per_layer_input") or vocab)
        * per_layer
        * len(plan),
        vision_params=vision_params(fields, hidden, assumed),
        experts=dimensions.experts,
        experts_used=dimensions.experts_used,
        ffn_size=dimensions.ffn,
        expert_ffn_size=dimensions.expert_ffn,
        max_context_tokens=_context_tokens(fields, assumed),
        is_encoder=encoder,
        quantization=fields.quantization,
        torch_dtype=str(fields.raw("torch_dtype", "dtype") or "") or None,
        state_dtype=str(fields.raw("mamba_ssm_dtype", "mamba_ssm_cache_dtype") or "") or None,
        latent_head_dims=_latent_head_dims(fields),
        keeps_latent=not (
            fields.raw("gguf_arch") and fields.number("kv_lora_rank") and dimensions.kv_heads > 1
        ),
        assumed=tuple(dict.fromkeys(assumed)),
    )
    total, exact = fields.stated_total()
    # A name rounds; it decides only where the structure was guessed. A stated figure corrects small things
    # that the structure leaves out, but one far from it is about something else.
    off = abs(architecture.total_params - (total or 0)) / max(total or 1.0, 1.0)
    guessed = dimensions.guessed or dimensions.solved
    if total and ((guessed and off > (0.0 if exact else 0.02)) or (exact and 0.001 < off < 0.25)):
        source = "as stated" if exact else "from the name"
        architecture = dataclasses.replace(
            architecture.scaled_to(total),
            assumed=(*architecture.assumed, f"{total / 1e9:.4g} B parameters ({source})"),
        )
    return architecture


def _latent_head_dims(fields: ConfigFields) -> tuple[int, int]:
    nope, rope = fields.number("qk_nope_head_dim") or 128, fields.number("qk_rope_head_dim") or 64
    return fields.number("head_dim_k") or nope + rope, fields.number("v_head_dim", "head_dim_v") or 128


def _context_tokens(fields: ConfigFields, assumed: list[str]) -> int | None:
    stated = fields.number("context")
    if stated is None:
        stated = default_context(fields)
        if stated:
            assumed.append(f"max_position_embeddings {stated}")
    return stated
