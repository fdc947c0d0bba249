"""Parameter names of the authors' repository (see `names`)."""

from ..names import NameTable

_ATTENTION = "(sampling_offsets|attention_weights|value_proj|output_proj).*"
_ENCODER, _DECODER = "transformer.encoder.layers.#", "transformer.decoder.layers.#"
_OUR_ENCODER, _OUR_DECODER = "model.encoder.layers.#", "model.decoder.layers.#"

NAMES = NameTable(
    pairs=(
        ("transformer.level_embed", "model.level_embed"),
        (f"{_ENCODER}.self_attn.{_ATTENTION}", f"{_OUR_ENCODER}.self_attn.{_ATTENTION}"),
        (f"{_ENCODER}.norm1.*", f"{_OUR_ENCODER}.self_attn_norm.*"),
        (f"{_ENCODER}.linear1.*", f"{_OUR_ENCODER}.ffn.fc1.*"),
        (f"{_ENCODER}.linear2.*", f"{_OUR_ENCODER}.ffn.fc2.*"),
        (f"{_ENCODER}.norm2.*", f"{_OUR_ENCODER}.ffn_norm.*"),
        (f"{_DECODER}.cross_attn.{_ATTENTION}", f"{_OUR_DECODER}.cross_attn.{_ATTENTION}"),
        (f"{_DECODER}.norm1.*", f"{_OUR_DECODER}.cross_attn_norm.*"),
        (f"{_DECODER}.self_attn.in_proj_(weight|bias)", f"{_OUR_DECODER}.self_attn.in_proj_(weight|bias)"),
        (f"{_DECODER}.self_attn.out_proj.*", f"{_OUR_DECODER}.self_attn.out_proj.*"),
        (f"{_DECODER}.norm2.*", f"{_OUR_DECODER}.self_attn_norm.*"),
        (f"{_DECODER}.linear1.*", f"{_OUR_DECODER}.ffn.fc1.*"),
        (f"{_DECODER}.linear2.*", f"{_OUR_DECODER}.ffn.fc2.*"),
        (f"{_DECODER}.norm3.*", f"{_OUR_DECODER}.ffn_norm.*"),
        ("transformer.enc_output.*", "model.first_stage.memory_proj.*"),
        ("transformer.enc_output_norm.*", "model.first_stage.memory_norm.*"),
        ("transformer.pos_trans.*", "model.first_stage.query_proj.*"),
        ("transformer.pos_trans_norm.*", "model.first_stage.query_norm.*"),
        ("transformer.reference_points.*", "model.reference_points.*"),
        ("class_embed.#.*", "class_heads.#.*"),
        ("bbox_embed.#.layers.0.*", "model.decoder.box_heads.#.0.*"),
        ("bbox_embed.#.layers.1.*", "model.decoder.box_heads.#.2.*"),
        ("bbox_embed.#.layers.2.*", "model.decoder.box_heads.#.4.*"),
        ("query_embed.weight", "model.query_embedding.weight"),
        ("input_proj.#.0.*", "model.neck.levels.#.conv.*"),
        ("input_proj.#.1.*", "model.neck.levels.#.norm.*"),
        ("backbone.0.body.*", "model.backbone.body.*"),
    ),
    order=(
        ("transformer.level_embed",),
        ("transformer.encoder.", "self_attn", "norm1", "linear", "norm2"),
        ("transformer.decoder.layers.", "cross_attn", "norm1", "self_attn", "norm2", "linear", "norm3"),
        ("transformer.decoder.bbox_embed.",),
        ("transformer.decoder.class_embed.",),
        ("transformer.enc_output.",),
        ("transformer.enc_output_norm.",),
        ("transformer.pos_trans.",),
        ("transformer.pos_trans_norm.",),
        ("transformer.reference_points.",),
        ("class_embed.",),
        ("bbox_embed.",),
        ("query_embed.",),
        ("input_proj.",),
        ("backbone.",),
    ),
    aliases=(
        ("transformer.decoder.bbox_embed.", "bbox_embed.", "with_box_refine"),
        ("transformer.decoder.class_embed.", "class_embed.", "two_stage"),
    ),
    # thop's counters, which the authors' own loading leaves out too.
    ignored=r"(.*\.)?total_(params|ops)|backbone\..*\.num_batches_tracked",
    numbers_extra_levels=False,
    counts_batches=False,
)

__all__ = ["NAMES"]
