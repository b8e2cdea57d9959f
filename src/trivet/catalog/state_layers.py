"""Layers that keep a state of constant size: linear attention, Mamba, short convolutions. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from trivet.catalog.config_fields import ConfigFields
from trivet.catalog.dimensions import Dimensions


class StateSizes(NamedTuple):
    """What one such layer has, in elements."""

    matrices: int = 0
    """Parameters of its projections."""
    conv_state: int = 0
    """Of one sequence."""
    recurrent_state: int = 0
    """Of one sequence."""
    small: int = 0
    """Parameters that stay in 16 bits or more: convolutions, decays."""


def state_sizes(fields: ConfigFields, dimensions: Dimensions, assumed: list[str]) -> StateSizes:
    """Read the sizes of a model's recurrent layers; zeros where it has none."""
    heads = fields.number("mamba_heads")
    if fields.family_text.startswith("mamba2"):
        heads = fields.number("num_heads")
    expand = fields.number("mamba_expand", "expand")
    if heads or expand:
        return _mamba(fields, dimensions.hidden, heads, expand or 2)
    linear = fields.raw("linear_attn_config")
    if isinstance(linear, Mapping):
        return _delta_attention(linear, dimensions.hidden)
    if fields.raw("attn_type_list"):
        # Lightning attention (MiniMax): query, key, value, gate and output of the whole width.
        inner = dimensions.heads * dimensions.head_dim
        return StateSizes(5 * dimensions.hidden * inner, 0, inner * dimensions.head_dim)
    if fields.family("lfm2"):
        width, kernel = dimensions.hidden, fields.number("mamba_conv") or 3
        return StateSizes(4 * width * width, width * (kernel - 1), 0, width * kernel)
    if fields.number("linear_num_value_heads") or fields.family("qwen3next", "qwen35"):
        return _gated_delta_net(fields, dimensions.hidden, assumed)
    return StateSizes()


def _mamba(fields: ConfigFields, hidden: int, heads: int | None, expand: int) -> StateSizes:
    """Mamba 2: one projection in (gate, input, both state matrices, steps), a convolution, one out."""
    state = fields.number("mamba_state") or 128
    groups = fields.number("mamba_groups") or 1
    kernel = fields.number("mamba_conv") or 4
    head_dim = fields.number("mamba_head_dim") or 64
    inner = heads * head_dim if heads else expand * hidden
    heads = heads or inner // head_dim
    mixed = inner + 2 * groups * state
    matrices = hidden * (inner + mixed + heads) + inner * hidden
    return StateSizes(matrices, mixed * (kernel - 1), inner * state, mixed * kernel + 3 * heads)


def _delta_attention(linear: Mapping[str, Any], hidden: int) -> StateSizes:
    """Kimi's delta attention: query, key, value, output, and gates of low rank."""
    inner = int(linear.get("num_heads", 32)) * int(linear.get("head_dim", 128))
    kernel = int(linear.get("short_conv_kernel_size", 4))
    matrices = 4 * hidden * inner + 2 * hidden * 128 + 2 * 128 * inner
    return StateSizes(matrices, 3 * inner * (kernel - 1), inner * 128, 3 * inner * kernel)


def _gated_delta_net(fields: ConfigFields, hidden: int, assumed: list[str]) -> StateSizes:
    """Qwen3-Next and later: query, key, value and gate in one projection, steps in another."""
    stated = fields.number("linear_num_value_heads")
    if stated is None:
        assumed.append("linear attention of 16 key and 32 value heads of 128")
    value_heads, key_heads = stated or 32, fields.number("linear_num_key_heads") or 16
    key_dim = fields.number("linear_key_head_dim") or 128
    value_dim = fields.number("linear_value_head_dim") or 128
    kernel = fields.number("linear_conv_kernel_dim") or 4
    keys, values = key_heads * key_dim, value_heads * value_dim
    mixed = 2 * keys + values
    matrices = hidden * (mixed + values + 2 * value_heads) + values * hidden
    recurrent = value_heads * value_dim * key_dim
    return StateSizes(matrices, mixed * (kernel - 1), recurrent, mixed * kernel + 2 * value_heads)
