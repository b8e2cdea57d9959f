"""The part of a model that sees, counted from its own configuration. Pure."""

from trivet.catalog.config_fields import ConfigFields

_SEES = "forconditionalgeneration"
_HEARS_OR_TRANSLATES = ("t5", "bart", "whisper", "mt5", "pegasus", "florence")
_VISION_TOWER_PARAMS = 450_000_000
"""What is assumed for a model whose class sees and whose record leaves the tower out: SigLIP So400m has
0.42 B, the towers of Qwen3.5 and Mistral Small 3.1 have 0.46 and 0.44 B."""


def vision_params(model: ConfigFields, hidden: int, assumed: list[str]) -> int:
    """Count a vision tower: a plain transformer, its patch embedding, and a projector of two matrices."""
    if not model.vision:
        if model.family(_SEES) and not model.family(*_HEARS_OR_TRANSLATES):
            assumed.append(f"a vision tower of {_VISION_TOWER_PARAMS / 1e9:g} B parameters")
            return _VISION_TOWER_PARAMS
        return 0
    fields = ConfigFields(model.vision)
    width = fields.number("hidden", "embed_dim", "width") or 1024
    depth = fields.number("layers", "depth") or 24
    ffn = fields.number("ffn") or round(width * float(fields.raw("mlp_ratio") or 4))
    patch = fields.number("patch_size") or 14
    merged = (fields.number("spatial_merge_size") or 1) ** 2 * width
    out = fields.number("out_hidden_size") or hidden
    gated = "silu" in str(fields.raw("hidden_act") or "")
    block = 4 * width * width + (3 if gated else 2) * width * ffn
    projector = merged * out if merged == width else merged * merged + merged * out
    return depth * block + 3 * patch * patch * width + projector
