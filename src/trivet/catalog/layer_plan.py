"""From a config to its layers: which of them attends to what, and which has experts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trivet.catalog.config_fields import ConfigFields
from trivet.catalog.dimensions import Dimensions
from trivet.catalog.kind_defaults import full_every, is_encoder, is_pure_mamba
from trivet.catalog.layer_parameters import LayerShape, count_layer
from trivet.catalog.layers import Layer, Mixer

_KINDS = {
    "full_attention": Mixer.FULL,
    "attention": Mixer.FULL,
    "global": Mixer.FULL,
    "sliding_attention": Mixer.SLIDING,
    "local": Mixer.SLIDING,
    "chunked_attention": Mixer.CHUNKED,
    "linear_attention": Mixer.STATE,
    "mamba": Mixer.STATE,
    "mamba2": Mixer.STATE,
    "conv": Mixer.STATE,
    "cross_attention": Mixer.NONE,
}


def plan_layers(fields: ConfigFields, dimensions: Dimensions, assumed: list[str]) -> tuple[Layer, ...]:
    """Lay out every layer of a model."""
    shape = LayerShape.read(fields, dimensions, assumed)
    mixers = _mixers(fields, dimensions, assumed)
    parts = _feed_forwards(fields, dimensions)
    shared_from = dimensions.layers - (fields.number("num_kv_shared_layers") or 0)
    heads, kv_heads = fields.numbers("heads"), fields.numbers("kv_heads")
    widths = fields.numbers("ffn")
    laid = []
    for index, (mixer, part) in enumerate(zip(mixers, parts, strict=True)):
        own_heads = heads[index] if len(heads) == dimensions.layers else dimensions.heads
        own_kv_heads = kv_heads[index] if len(kv_heads) == dimensions.layers else dimensions.kv_heads
        # A list of heads with zeros (DeciLM) marks layers whose attention was pruned away.
        own_mixer = Mixer.NONE if mixer is Mixer.FULL and 0 in (own_heads, own_kv_heads) else mixer
        width = widths[index] if len(widths) == dimensions.layers else dimensions.ffn
        if index >= shared_from and fields.flag("use_double_wide_mlp"):
            # Gemma 4 E2B: layers that keep no cache of their own think with twice the width.
            width *= 2
        laid.append(
            count_layer(
                shape,
                mixer=own_mixer,
                heads=own_heads,
                kv_heads=own_kv_heads,
                part=part,
                ffn=width,
                shares_kv=index >= shared_from,
            )
        )
    return tuple(laid)


def _mixers(fields: ConfigFields, dimensions: Dimensions, assumed: list[str]) -> list[Mixer]:
    """Say what each layer's mixer is, from the first of the makers' ways to state it."""
    count = dimensions.layers
    pattern = fields.raw("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [{"M": Mixer.STATE, "*": Mixer.FULL}.get(letter, Mixer.NONE) for letter in pattern]
    if fields.number("kv_lora_rank") and not fields.raw("linear_attn_config"):
        return [Mixer.LATENT] * count
    for stated in (_from_types(fields, count), _from_indices(fields, count), _from_interval(fields, count)):
        if stated:
            return stated
    if is_encoder(fields):
        return [Mixer.NONE] * count
    if is_pure_mamba(fields):
        return [Mixer.STATE] * count
    return _from_window(fields, count, assumed)


def _from_types(fields: ConfigFields, count: int) -> list[Mixer]:
    """Read `layer_types`: a list of words, or a mapping of words to how many layers are so."""
    types = fields.raw("layer_types", "layers_block_type")
    if isinstance(types, Mapping):
        return _interleaved({_KINDS.get(str(k), Mixer.FULL): int(v) for k, v in types.items()}, count)
    if isinstance(types, Sequence) and not isinstance(types, str):
        named = [_KINDS.get(str(word), Mixer.FULL) for word in types]
        return named if len(named) == count else []
    flags = fields.raw("hybrid_layer_pattern")
    if isinstance(flags, Sequence) and not isinstance(flags, str) and len(flags) == count:
        return [Mixer.SLIDING if flag else Mixer.FULL for flag in flags]
    return []


def _interleaved(counts: Mapping[Mixer, int], count: int) -> list[Mixer]:
    """Spread the rarer kinds evenly; where they stand matters little, how many there are does."""
    if sum(counts.values()) != count:
        return []
    laid: list[Mixer] = []
    given = dict.fromkeys(counts, 0)
    for index in range(count):
        kind = max(counts, key=lambda k: counts[k] * (index + 1) / count - given[k])
        given[kind] += 1
        laid.append(kind)
    return laid


def _from_indices(fields: ConfigFields, count: int) -> list[Mixer]:
    """Read lists of which layers attend: Kimi Linear, Bamba, LFM2, Llama 3.2 Vision."""
    kinds = fields.raw("attn_type_list")
    if isinstance(kinds, Sequence) and not isinstance(kinds, str) and len(kinds) == count:
        return [Mixer.FULL if kind else Mixer.STATE for kind in kinds]
    linear = fields.raw("linear_attn_config")
    if isinstance(linear, Mapping) and isinstance(linear.get("full_attn_layers"), Sequence):
        attending = {int(index) - 1 for index in linear["full_attn_layers"]}
        full = Mixer.LATENT if fields.number("kv_lora_rank") else Mixer.FULL
        return [full if index in attending else Mixer.STATE for index in range(count)]
    listed = fields.raw("attn_layer_indices", "full_attn_idxs")
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        return [Mixer.FULL if index in set(listed) else Mixer.STATE for index in range(count)]
    crossing = fields.raw("cross_attention_layers")
    if isinstance(crossing, Sequence) and not isinstance(crossing, str):
        return [Mixer.NONE if index in set(crossing) else Mixer.FULL for index in range(count)]
    return []


def _from_interval(fields: ConfigFields, count: int) -> list[Mixer]:
    """Read `full_attention_interval` (Qwen3-Next and later) or `attn_layer_period` (Jamba)."""
    interval = fields.number("full_attention_interval")
    if interval is None and fields.family("qwen3next", "qwen35"):
        interval = 4
    if interval:
        return [Mixer.FULL if (index + 1) % interval == 0 else Mixer.STATE for index in range(count)]
    period = fields.number("attn_layer_period")
    if period:
        offset = fields.number("attn_layer_offset") or 0
        return [Mixer.FULL if index % period == offset else Mixer.STATE for index in range(count)]
    return []


def _from_window(fields: ConfigFields, count: int, assumed: list[str]) -> list[Mixer]:
    """Tell sliding from full attention by the window, the pattern and the kind's defaults."""
    if fields.family("llama4"):
        step = fields.number("no_rope_layer_interval") or 4
        return [Mixer.FULL if (index + 1) % step == 0 else Mixer.CHUNKED for index in range(count)]
    every = fields.number("sliding_window_pattern", "_sliding_window_pattern")
    if every is None:
        every = full_every(fields)
        if every is not None:
            ordinal = {2: "2nd", 3: "3rd"}.get(every, f"{every}th")
            assumed.append(f"every {ordinal} layer attends to the whole context")
    if every:
        return [Mixer.FULL if (index + 1) % every == 0 else Mixer.SLIDING for index in range(count)]
    window, context = fields.number("window"), fields.number("context")
    # Qwen and MiMo name a window that use_sliding_window turns on; Mistral 7B v0.1 and Phi-3 mean theirs.
    slides = fields.flag("use_sliding_window")
    if slides is None:
        slides = fields.family("mistralforcausal", "mistralmistral", "phi3")
    if window and slides and (context is None or window < context):
        full_first = fields.number("max_window_layers") or 0
        return [Mixer.FULL if index < full_first else Mixer.SLIDING for index in range(count)]
    return [Mixer.FULL] * count


def _feed_forwards(fields: ConfigFields, dimensions: Dimensions) -> Iterable[str]:
    """Say for each layer which feed-forward part it has: `none`, `dense`, `moe`, or `both` (Gemma 4)."""
    count = dimensions.layers
    pattern = fields.raw("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [{"-": "dense", "E": "moe"}.get(letter, "none") for letter in pattern]
    if is_pure_mamba(fields):
        return ["none"] * count
    if not dimensions.experts:
        return ["dense"] * count
    if fields.family("gemma4"):
        return ["both"] * count
    first = fields.number("dense_first") or 0
    default_step = 2 if fields.family("llama4") and dimensions.experts >= 64 else 1
    step = fields.number(
        "interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq", "expert_layer_period"
    )
    step = step or default_step
    offset = fields.number("expert_layer_offset")
    dense = set(_listed(fields.raw("mlp_only_layers")))
    listed = _listed(fields.raw("moe_layers"))
    chosen = []
    for index in range(count):
        due = (index % step == offset) if offset is not None else (index + 1) % step == 0
        routed = index in listed if listed else due and index >= first and index not in dense
        chosen.append("moe" if routed else "dense")
    return chosen


def _listed(value: Any) -> tuple[int, ...]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(int(item) for item in value)
    return ()
