"""Parameter names of MMDetection 3.x and 2.x (see `names`)."""

from collections.abc import Iterable

from ..names import NameMap, NameTable, reversed_pairs

_ATTENTION = "sampling_offsets|attention_weights|value_proj|output_proj"

# 3.x, common
NAMES_3X = NameTable(
    pairs=(
        ("backbone.*", "model.backbone.body.*"),
        ("neck.convs.#.conv.*", "model.neck.levels.#.conv.*"),
        ("neck.convs.#.gn.*", "model.neck.levels.#.norm.*"),
        ("neck.extra_convs.#.conv.*", "model.neck.extra.#.conv.*"),
        ("neck.extra_convs.#.gn.*", "model.neck.extra.#.norm.*"),
        ("level_embed", "model.level_embed"),
        (f"encoder.layers.#.self_attn.({_ATTENTION}).*", f"model.encoder.layers.#.self_attn.({_ATTENTION}).*"),
        ("encoder.layers.#.ffn.layers.0.0.*", "model.encoder.layers.#.ffn.fc1.*"),
        ("encoder.layers.#.ffn.layers.1.*", "model.encoder.layers.#.ffn.fc2.*"),
        ("encoder.layers.#.norms.0.*", "model.encoder.layers.#.self_attn_norm.*"),
        ("encoder.layers.#.norms.1.*", "model.encoder.layers.#.ffn_norm.*"),
        (
            "decoder.layers.#.self_attn.attn.in_proj_(weight|bias)",
            "model.decoder.layers.#.self_attn.in_proj_(weight|bias)",
        ),
        ("decoder.layers.#.self_attn.attn.out_proj.*", "model.decoder.layers.#.self_attn.out_proj.*"),
        (f"decoder.layers.#.cross_attn.({_ATTENTION}).*", f"model.decoder.layers.#.cross_attn.({_ATTENTION}).*"),
        ("decoder.layers.#.ffn.layers.0.0.*", "model.decoder.layers.#.ffn.fc1.*"),
        ("decoder.layers.#.ffn.layers.1.*", "model.decoder.layers.#.ffn.fc2.*"),
        ("decoder.layers.#.norms.0.*", "model.decoder.layers.#.self_attn_norm.*"),
        ("decoder.layers.#.norms.1.*", "model.decoder.layers.#.cross_attn_norm.*"),
        ("decoder.layers.#.norms.2.*", "model.decoder.layers.#.ffn_norm.*"),
        ("bbox_head.reg_branches.#.*", "model.decoder.box_heads.#.*"),
        ("bbox_head.cls_branches.#.*", "class_heads.#.*"),
        ("memory_trans_fc.*", "model.first_stage.memory_proj.*"),
        ("memory_trans_norm.*", "model.first_stage.memory_norm.*"),
        ("pos_trans_fc.*", "model.first_stage.query_proj.*"),
        ("pos_trans_norm.*", "model.first_stage.query_norm.*"),
        ("query_embedding.weight", "model.query_embedding.weight"),
        ("reference_points_fc.*", "model.reference_points.*"),
    ),
    order=(
        ("level_embed",),
        ("backbone.",),
        ("neck.convs.",),
        ("neck.extra_convs.",),
        ("bbox_head.cls_branches.",),
        ("bbox_head.reg_branches.",),
        ("encoder.", "self_attn", "ffn", "norms"),
        ("decoder.", "self_attn", "cross_attn", "ffn", "norms"),
        ("query_embedding.",),
        ("reference_points_fc.",),
        ("memory_trans_fc.",),
        ("memory_trans_norm.",),
        ("pos_trans_fc.",),
        ("pos_trans_norm.",),
    ),
)

# 2.x, 3.x; names that are not here are the same in both
_PAIRS_2X = [
    ("bbox_head.transformer.level_embeds", "level_embed"),
    ("bbox_head.transformer.encoder.layers.#.attentions.0.*", "encoder.layers.#.self_attn.*"),
    ("bbox_head.transformer.encoder.layers.#.ffns.0.*", "encoder.layers.#.ffn.*"),
    ("bbox_head.transformer.encoder.layers.#.norms.*", "encoder.layers.#.norms.*"),
    ("bbox_head.transformer.decoder.layers.#.attentions.0.*", "decoder.layers.#.self_attn.*"),
    ("bbox_head.transformer.decoder.layers.#.attentions.1.*", "decoder.layers.#.cross_attn.*"),
    ("bbox_head.transformer.decoder.layers.#.ffns.0.*", "decoder.layers.#.ffn.*"),
    ("bbox_head.transformer.decoder.layers.#.norms.*", "decoder.layers.#.norms.*"),
    ("bbox_head.transformer.enc_output.*", "memory_trans_fc.*"),
    ("bbox_head.transformer.enc_output_norm.*", "memory_trans_norm.*"),
    ("bbox_head.transformer.pos_trans.*", "pos_trans_fc.*"),
    ("bbox_head.transformer.pos_trans_norm.*", "pos_trans_norm.*"),
    ("bbox_head.transformer.reference_points.*", "reference_points_fc.*"),
    ("bbox_head.query_embedding.weight", "query_embedding.weight"),
]

name_3x_from_2x = NameMap(_PAIRS_2X)
name_2x_from_3x = NameMap(reversed_pairs(_PAIRS_2X))


def is_2x(names: Iterable[str]) -> bool:
    """Whether a state dict's names are MMDetection 2.x's."""
    return any(name.startswith("bbox_head.transformer.") for name in names)


__all__ = ["NAMES_3X", "is_2x", "name_2x_from_3x", "name_3x_from_2x"]
