"""Parameter names of transformers' Deformable DETR (see `names`): what files hold, of releases 4 and 5 alike."""

import re

from ..names import NameTable

_ATTENTION = "(sampling_offsets|attention_weights|value_proj|output_proj).*"
_ENCODER, _DECODER = "model.encoder.layers.#", "model.decoder.layers.#"

NAMES = NameTable(
    pairs=(
        ("model.level_embed", "model.level_embed"),
        ("model.backbone.conv_encoder.model.*", "model.backbone.body.*"),
        ("model.input_proj.#.0.*", "model.neck.levels.#.conv.*"),
        ("model.input_proj.#.1.*", "model.neck.levels.#.norm.*"),
        (f"{_ENCODER}.self_attn.{_ATTENTION}", f"{_ENCODER}.self_attn.{_ATTENTION}"),
        (f"{_ENCODER}.self_attn_layer_norm.*", f"{_ENCODER}.self_attn_norm.*"),
        (f"{_ENCODER}.fc1.*", f"{_ENCODER}.ffn.fc1.*"),
        (f"{_ENCODER}.fc2.*", f"{_ENCODER}.ffn.fc2.*"),
        (f"{_ENCODER}.final_layer_norm.*", f"{_ENCODER}.ffn_norm.*"),
        (
            f"{_DECODER}.self_attn.(q_proj|k_proj|v_proj|out_proj).*",
            f"{_DECODER}.self_attn.(q_proj|k_proj|v_proj|out_proj).*",
        ),
        (f"{_DECODER}.self_attn_layer_norm.*", f"{_DECODER}.self_attn_norm.*"),
        (f"{_DECODER}.encoder_attn.{_ATTENTION}", f"{_DECODER}.cross_attn.{_ATTENTION}"),
        (f"{_DECODER}.encoder_attn_layer_norm.*", f"{_DECODER}.cross_attn_norm.*"),
        (f"{_DECODER}.fc1.*", f"{_DECODER}.ffn.fc1.*"),
        (f"{_DECODER}.fc2.*", f"{_DECODER}.ffn.fc2.*"),
        (f"{_DECODER}.final_layer_norm.*", f"{_DECODER}.ffn_norm.*"),
        ("model.enc_output.*", "model.first_stage.memory_proj.*"),
        ("model.enc_output_norm.*", "model.first_stage.memory_norm.*"),
        ("model.pos_trans.*", "model.first_stage.query_proj.*"),
        ("model.pos_trans_norm.*", "model.first_stage.query_norm.*"),
        ("model.query_position_embeddings.weight", "model.query_embedding.weight"),
        ("model.reference_points.*", "model.reference_points.*"),
        ("class_embed.#.*", "class_heads.#.*"),
        ("bbox_embed.#.layers.0.*", "model.decoder.box_heads.#.0.*"),
        ("bbox_embed.#.layers.1.*", "model.decoder.box_heads.#.2.*"),
        ("bbox_embed.#.layers.2.*", "model.decoder.box_heads.#.4.*"),
    ),
    aliases=(
        ("model.decoder.bbox_embed.", "bbox_embed.", "with_box_refine"),
        ("model.decoder.class_embed.", "class_embed.", "two_stage"),
    ),
    # Release 4.30 froze all batch norms but those of the shortcuts.
    ignored=r".*\.num_batches_tracked",
    packs_attention=False,
    numbers_extra_levels=False,
    counts_batches=False,
)

# What the network is called in files (4.x), in memory (5.x) and where a timm network is wrapped.
_BACKBONE = re.compile(r"model\.backbone\.(?:conv_encoder\.)?model\.(?:_backbone\.)?(.+)")
_PARTS = {"convolution": ("conv", 0), "normalization": ("bn", 1)}
_HF_STEM = re.compile(r"embedder\.embedder\.(convolution|normalization)\.(.+)")
_HF_LAYER = re.compile(r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.(convolution|normalization)\.(.+)")
_HF_SHORTCUT = re.compile(r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(.+)")


def to_common(name: str) -> str | None:
    """A name of a file, or of a model in memory, as a common one; None where the model has none such."""
    if backbone := _BACKBONE.fullmatch(name):
        return NAMES.to_common(f"model.backbone.conv_encoder.model.{_as_timm(backbone[1])}")
    name = re.sub(r"(layers\.\d+)\.mlp\.(fc[12])\.", r"\1.\2.", name)
    return NAMES.to_common(re.sub(r"\.self_attn\.o_proj\.", ".self_attn.out_proj.", name))


def has_hf_resnet(names: list[str]) -> bool:
    """Whether the backbone is transformers' own ResNet, not timm's."""
    return any(
        (inner := _BACKBONE.fullmatch(name)) and inner[1].startswith(("embedder.", "encoder.")) for name in names
    )


def _as_timm(name: str) -> str:
    """transformers' own ResNet's name as timm's; others stay."""
    if stem := _HF_STEM.fullmatch(name):
        return f"{_PARTS[stem[1]][0]}1.{stem[2]}"
    if layer := _HF_LAYER.fullmatch(name):
        stage, block, number, part, rest = layer.groups()
        return f"layer{int(stage) + 1}.{block}.{_PARTS[part][0]}{int(number) + 1}.{rest}"
    if shortcut := _HF_SHORTCUT.fullmatch(name):
        stage, block, part, rest = shortcut.groups()
        return f"layer{int(stage) + 1}.{block}.downsample.{_PARTS[part][1]}.{rest}"
    return name


__all__ = ["NAMES", "has_hf_resnet", "to_common"]
