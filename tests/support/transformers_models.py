"""transformers' own models with deformable attention, small, with random weights, and what they are called with."""

from dataclasses import fields
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

HEIGHT, WIDTH = 96, 128
# Of these a config gets the fields that it has.
SMALL = {
    **dict.fromkeys(
        ("d_model", "encoder_hidden_dim", "decoder_hidden_dim", "feature_size", "mask_feature_size", "conv_dim"), 64
    ),
    **dict.fromkeys(("hidden_dim", "mask_dim", "text_encoder_width", "hidden_size"), 64),
    **dict.fromkeys(("text_projection_in_dim", "text_projection_out_dim", "class_embed_dim"), 16),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "encoder_feedforward_dim", "dim_feedforward"), 32),
    **dict.fromkeys(("encoder_dim_feedforward", "decoder_dim_feedforward", "task_encoder_hidden_dim"), 32),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_attention_heads"), 4),
    **dict.fromkeys(("decoder_self_attention_heads", "decoder_cross_attention_heads", "decoder_num_heads"), 4),
    **dict.fromkeys(("decoder_layers", "decoder_num_layers", "query_dec_layers", "text_encoder_num_layers"), 2),
    **dict.fromkeys(("task_seq_len", "text_encoder_context_length"), 4),
    "encoder_layers": 1,
    "decoder_in_channels": [64, 64, 64],
    "vision_features_channels": [64, 64, 64],
    "encoder_in_channels": [16, 32, 64],
    "mask_feature_channels": [32, 32],
    "image_size": [HEIGHT, WIDTH],
    "num_queries": 5,
    "num_denoising": 0,
    "group_detr": 1,
    "fusion_droppath": 0.0,
    "dropout": 0.0,
    "max_text_len": 8,
    "text_encoder_vocab_size": 9,
    "global_pointer_head_size": 8,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
ONE_EACH = [1, 1, 1, 1]
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": ONE_EACH,
    "num_heads": ONE_EACH,
    "window_size": 3,
    "image_size": WIDTH,
    "drop_path_rate": 0.0,
    "out_features": STAGES[1:],
}
RESNET = {
    "model_type": "rt_detr_resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 32, 64],
    "depths": ONE_EACH,
    "layer_type": "basic",
    "out_features": STAGES[1:],
}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "pretrain_image_size": 64,
    "patch_size": 16,
    "num_windows": 4,
    "out_features": STAGES[:2],
}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
READING_ORDER = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "coordinate_size": 5,
    "shape_size": 6,
}
GROUNDING = {"backbone_config": SWIN, "text_config": {"model_type": "bert", **TEXT}}
SEGMENTATION = {"backbone_config": {**SWIN, "out_features": STAGES}}
DETECTOR, SEGMENTER = "ForObjectDetection", "ForUniversalSegmentation"
# Of each folder in transformers.models: its classes' prefix and suffix, and settings beyond SMALL.
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deformable_detr": (
        "DeformableDetr",
        DETECTOR,
        {"backbone_config": {**RESNET, "model_type": "resnet"}, "use_timm_backbone": False},
    ),
    "grounding_dino": ("GroundingDino", DETECTOR, GROUNDING),
    "lw_detr": (
        "LwDetr",
        DETECTOR,
        {
            "backbone_config": {**VIT, "model_type": "lw_detr_vit", "window_block_indices": [0]},
            "projector_scale_factors": [2.0, 0.5],
        },
    ),
    "mask2former": ("Mask2Former", SEGMENTER, SEGMENTATION),
    "mm_grounding_dino": ("MMGroundingDino", DETECTOR, GROUNDING),
    "omdet_turbo": (
        "OmDetTurbo",
        DETECTOR,
        {
            "backbone_config": SWIN,
            "use_timm_backbone": False,
            "apply_layernorm_after_vision_backbone": False,
            "text_config": {"model_type": "clip_text_model", **TEXT, "projection_dim": 16},
        },
    ),
    "oneformer": ("OneFormer", SEGMENTER, SEGMENTATION),
    "pp_doclayout_v2": (
        "PPDocLayoutV2",
        DETECTOR,
        {
            "backbone_config": RESNET,
            "reading_order_config": READING_ORDER,
            "class_thresholds": [0.0, 0.0],
            "class_order": [0, 1],
        },
    ),
    "pp_doclayout_v3": (
        "PPDocLayoutV3",
        DETECTOR,
        {
            "backbone_config": {
                **RESNET,
                "embedding_size": 128,
                "hidden_sizes": [128, 16, 32, 64],
                "out_features": STAGES,
            }
        },
    ),
    "pp_doclayout_v4": ("PPDocLayoutV4", DETECTOR, {"backbone_config": RESNET}),
    "rf_detr": (
        "RfDetr",
        DETECTOR,
        {"backbone_config": {**VIT, "model_type": "rf_detr_dinov2", "num_windows": 2}},
    ),
    "rt_detr": ("RTDetr", DETECTOR, {"backbone_config": RESNET}),
}


def small_model(name: str) -> PreTrainedModel:
    """In evaluation mode. Every weight is moved: new ones put points on centres of pixels, where the slope jumps."""
    prefix, suffix, settings = SETTINGS[name]
    config_class = getattr(transformers, f"{prefix}Config")
    known = {field.name for field in fields(config_class)}
    config = config_class(**{**{key: value for key, value in SMALL.items() if key in known}, **settings})
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}{suffix}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn(parameter.shape)
    if name == "omdet_turbo":  # it keeps what it made of words, graph and all
        model.language_backbone.requires_grad_(False)
    return model


def inputs_of(name: str) -> dict[str, Tensor]:
    """Two images, the second padded where the model takes a mask."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"pixel_values": torch.randn(2, 3, HEIGHT, WIDTH, generator=generator)}
    words = torch.tensor([[1, 2, 3, 4]] * 2)
    if name in ("grounding_dino", "mm_grounding_dino"):
        inputs["input_ids"] = words
    elif name == "oneformer":
        inputs["task_inputs"] = words
    elif name == "omdet_turbo":
        inputs |= {"tasks_input_ids": words, "tasks_attention_mask": torch.ones_like(words)}
        inputs |= {"classes_input_ids": words, "classes_attention_mask": torch.ones_like(words)}
        inputs["classes_structure"] = torch.ones(2, dtype=torch.int64)
    return inputs


def masked(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    mask = torch.ones(2, HEIGHT, WIDTH, dtype=torch.int64)
    mask[1, 48:] = mask[1, :, 64:] = 0
    return {**inputs, "pixel_mask": mask}


def numbers(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs and, of something made of all of them, the parameters' gradients, by name."""
    model.zero_grad()
    outputs = {
        name: tensor
        for name, tensor in model(**inputs).items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
    }
    # Sigmoid: some logits are minus infinity where there is no word.
    terms = [tensor.sigmoid().square().sum() for tensor in outputs.values() if tensor.requires_grad]
    torch.stack(terms).sum().backward()
    return {name: tensor.detach() for name, tensor in outputs.items()} | {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
