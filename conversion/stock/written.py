"""A model in the one form that transformers 4.30, 4.40, 4.57 and 5 load alike: config.json of release 4, names of 5."""

from typing import Any

from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.modeling import DeformableDetrRefineConfig, DeformableDetrRefineImageProcessor
from deformable_detr_refine.modeling.size_rules import NO_LIMIT

from ..resnets import resnet_of
from .config import MODEL_TYPE

_SAME = (
    "d_model",
    "num_feature_levels",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "encoder_n_points",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "decoder_n_points",
    "num_queries",
    "two_stage",
    "with_box_refine",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "dilation",
    "focal_alpha",
)
_WHOLE = ("class_cost", "bbox_cost", "giou_cost", "bbox_loss_coefficient", "giou_loss_coefficient")


def written_config(config: DeformableDetrRefineConfig, dtype: str) -> tuple[dict[str, Any], list[str]]:
    """config.json, and notes on what it cannot say; `dtype` as 'float32'.

    Raises:
        CheckpointError: stock has no such model.
    """
    backbone = resnet_of(config.backbone, "transformers")
    if config.num_feature_levels == 2:
        raise CheckpointError("A model of 2 feature levels cannot be written: transformers takes C3, C4 and C5, or C5.")
    if config.inverse_sigmoid_eps != 1e-5:
        raise CheckpointError(
            f"A model with inverse_sigmoid_eps={config.inverse_sigmoid_eps} cannot be written: that of transformers is "
            "1e-05, and boxes at the image's edge would differ."
        )
    values: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    notes = []
    for name in _WHOLE:
        # Release 5 refuses others.
        if (weight := getattr(config, name)) == int(weight):
            values[name] = int(weight)
        else:
            notes.append(f"{name}={weight} is left out: transformers takes whole numbers only.")
    labels = {index: config.id2label[index] for index in range(config.num_labels)}
    values |= {
        "model_type": MODEL_TYPE,
        "architectures": ["DeformableDetrForObjectDetection"],
        "id2label": {str(index): name for index, name in labels.items()},
        "label2id": {name: index for index, name in labels.items()},
        "two_stage_num_proposals": config.num_queries,
        # Not by `backbone_config`, which no release before 5 takes in its form.
        "use_timm_backbone": True,
        "backbone": backbone,
        "use_pretrained_backbone": False,
        "auxiliary_loss": True,
        "activation_function": "relu",
        "position_embedding_type": "sine",
        "is_encoder_decoder": True,
        "torch_dtype": dtype,
    }
    if config.class_loss_coefficient != 1:
        notes.append(f"class_loss_coefficient={config.class_loss_coefficient}: transformers trains with a weight of 1.")
    if config.focal_gamma != 2:
        notes.append(f"focal_gamma={config.focal_gamma}: transformers trains with 2.")
    if config.backbone_frozen_stages != 1:
        notes.append(
            f"backbone_frozen_stages={config.backbone_frozen_stages}: transformers 4 freezes the stem and the first "
            "stage, 5 nothing."
        )
    return values, notes


def written_processor(processor: DeformableDetrRefineImageProcessor) -> tuple[dict[str, Any], list[str]]:
    """preprocessor_config.json, and notes on what transformers does otherwise."""
    notes = []
    size = dict(processor.size)
    if size.keys() in ({"shortest_edge"}, {"longest_edge"}):
        # transformers resizes by both or not at all.
        size = {"shortest_edge": NO_LIMIT, "longest_edge": NO_LIMIT} | size
        notes.append(f"size has one edge, which transformers does not take: the other is {NO_LIMIT}, no limit.")
    values: dict[str, Any] = {
        "image_processor_type": "DeformableDetrImageProcessor",
        "format": "coco_detection",
        "size": size,
        "resample": int(processor.resample),
        "do_resize": processor.do_resize,
        "do_rescale": processor.do_rescale,
        "rescale_factor": processor.rescale_factor,
        "do_normalize": processor.do_normalize,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
        "do_pad": processor.do_pad,
    }
    if (pad_size := getattr(processor, "pad_size", None)) is not None:
        values["pad_size"] = dict(pad_size)
    if not processor.antialias:
        notes.append("transformers smooths an image that it makes smaller; this model's image processor does not.")
    if processor.size_rule != "transformers":
        notes.append(
            f"size_rule={processor.size_rule!r}: transformers 4.42 and later round the sides of images in another way, "
            "which differs by up to 9 pixels."
        )
    if processor.top_k != 100:
        notes.append(f"top_k={processor.top_k}: transformers gives the best 100 detections of an image.")
    return values, notes


def written_weights(weights: dict[str, Tensor], config: DeformableDetrRefineConfig) -> dict[str, Tensor]:
    """The names that release 5 writes.

    Of several names for one tensor, files hold one: the decoder's, or layer 0's where one head serves all. With all of
    them release 5 fails to load plain and two-stage models.
    """
    second = ()
    if config.with_box_refine:
        second = ("bbox_embed.", "class_embed.") if config.two_stage else ("bbox_embed.",)
    kept = {}
    for name, tensor in weights.items():
        one_head = not config.with_box_refine and name.startswith(("bbox_embed.", "class_embed."))
        if name.startswith(second) or (one_head and name.split(".")[1] != "0"):
            continue
        kept[name] = tensor.contiguous()
    return kept


__all__ = ["written_config", "written_processor", "written_weights"]
