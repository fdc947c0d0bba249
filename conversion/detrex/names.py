"""Parameter names of detrex (see `names`)."""

from ..names import NameTable

_ATTENTION = "(sampling_offsets|attention_weights|value_proj|output_proj).*"
_ENCODER, _DECODER = "transformer.encoder.layers.#", "transformer.decoder.layers.#"
_OUR_ENCODER, _OUR_DECODER = "model.encoder.layers.#", "model.decoder.layers.#"


def _backbone() -> list[tuple[str, str]]:
    """detectron2's ResNet: a norm belongs to its convolution, and stages are called after their stride."""
    pairs = [("backbone.stem.conv1.weight", "model.backbone.body.conv1.weight")]
    pairs += [("backbone.stem.conv1.norm.*", "model.backbone.body.bn1.*")]
    for stage in range(1, 5):
        theirs, ours = f"backbone.res{stage + 1}.#", f"model.backbone.body.layer{stage}.#"
        for number in (1, 2, 3):
            pairs += [(f"{theirs}.conv{number}.weight", f"{ours}.conv{number}.weight")]
            pairs += [(f"{theirs}.conv{number}.norm.*", f"{ours}.bn{number}.*")]
        pairs += [(f"{theirs}.shortcut.weight", f"{ours}.downsample.0.weight")]
        pairs += [(f"{theirs}.shortcut.norm.*", f"{ours}.downsample.1.*")]
    return pairs


NAMES = NameTable(
    pairs=(
        *_backbone(),
        ("neck.convs.#.(conv|norm).*", "model.neck.levels.#.(conv|norm).*"),
        ("neck.extra_convs.#.(conv|norm).*", "model.neck.extra.#.(conv|norm).*"),
        ("transformer.level_embeds", "model.level_embed"),
        (f"{_ENCODER}.attentions.0.{_ATTENTION}", f"{_OUR_ENCODER}.self_attn.{_ATTENTION}"),
        (f"{_ENCODER}.ffns.0.layers.0.0.*", f"{_OUR_ENCODER}.ffn.fc1.*"),
        (f"{_ENCODER}.ffns.0.layers.1.*", f"{_OUR_ENCODER}.ffn.fc2.*"),
        (f"{_ENCODER}.norms.0.*", f"{_OUR_ENCODER}.self_attn_norm.*"),
        (f"{_ENCODER}.norms.1.*", f"{_OUR_ENCODER}.ffn_norm.*"),
        (f"{_DECODER}.attentions.0.attn.in_proj_(weight|bias)", f"{_OUR_DECODER}.self_attn.in_proj_(weight|bias)"),
        (f"{_DECODER}.attentions.0.attn.out_proj.*", f"{_OUR_DECODER}.self_attn.out_proj.*"),
        (f"{_DECODER}.attentions.1.{_ATTENTION}", f"{_OUR_DECODER}.cross_attn.{_ATTENTION}"),
        (f"{_DECODER}.ffns.0.layers.0.0.*", f"{_OUR_DECODER}.ffn.fc1.*"),
        (f"{_DECODER}.ffns.0.layers.1.*", f"{_OUR_DECODER}.ffn.fc2.*"),
        (f"{_DECODER}.norms.0.*", f"{_OUR_DECODER}.self_attn_norm.*"),
        (f"{_DECODER}.norms.1.*", f"{_OUR_DECODER}.cross_attn_norm.*"),
        (f"{_DECODER}.norms.2.*", f"{_OUR_DECODER}.ffn_norm.*"),
        ("transformer.enc_output.*", "model.first_stage.memory_proj.*"),
        ("transformer.enc_output_norm.*", "model.first_stage.memory_norm.*"),
        ("transformer.pos_trans.*", "model.first_stage.query_proj.*"),
        ("transformer.pos_trans_norm.*", "model.first_stage.query_norm.*"),
        ("transformer.reference_points.*", "model.reference_points.*"),
        ("query_embedding.weight", "model.query_embedding.weight"),
        ("class_embed.#.*", "class_heads.#.*"),
        ("bbox_embed.#.layers.0.*", "model.decoder.box_heads.#.0.*"),
        ("bbox_embed.#.layers.1.*", "model.decoder.box_heads.#.2.*"),
        ("bbox_embed.#.layers.2.*", "model.decoder.box_heads.#.4.*"),
    ),
    aliases=(
        ("transformer.decoder.bbox_embed.", "bbox_embed.", "with_box_refine"),
        ("transformer.decoder.class_embed.", "class_embed.", "two_stage"),
    ),
    counts_batches=False,
)

__all__ = ["NAMES"]
