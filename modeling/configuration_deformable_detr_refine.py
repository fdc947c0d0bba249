"""Configuration of the Deformable DETR family: plain, refine, refine_twostage."""

from dataclasses import field
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .setting_checks import bounded_file, check_fields, check_words


@strict
class DeformableDetrRefineConfig(PreTrainedConfig):
    """Configuration of a Deformable DETR detector.

    The default is MMDetection's `deformable-detr-refine-twostage_r50_16xb2-50e_coco`, with COCO's number of classes
    left to `num_labels` or `id2label`. Two switches give the family: `DeformableDetrRefineConfig(two_stage=False)` is
    'refine', with `with_box_refine=False` too it is 'plain'. Building a model from it never downloads anything.

    Args:
        backbone: name of a timm model with feature levels of stride 8, 16 and 32.
        backbone_frozen_stages: -1 trains the whole backbone, 0 freezes the stem, 1 the stem and the stage of
            stride 4, and so on to 4, which freezes all of it. Batch norm is always frozen.
        dilation: the backbone's last stage has dilated convolutions in place of its stride (DC5): its level is of
            stride 16.
        neck_bias: the neck's convolutions have a bias. MMDetection's have none; those of the authors, of stock
            transformers and of detrex do.
        inverse_sigmoid_eps: boxes are held this far from 0 and 1 where the decoder takes their logits. detrex has 1e-3.
        d_model: width of the tokens (MMDetection's `embed_dims`); a multiple of 32 (group norm), of the heads and of 4.
        num_feature_levels: levels of the pyramid; those beyond the backbone's three are strided convolutions of the
            last.
        encoder_n_points, decoder_n_points: sampling points per head and level.
        num_queries: boxes a decoder layer predicts; with `two_stage`, the proposals that the first stage hands on.
        two_stage: let the encoder's tokens propose the queries (section 4.2 of the paper). Needs `with_box_refine`.
        mixed_query_selection: what a query is, is learned; only where it looks comes from its proposal (DINO,
            arXiv:2203.03605, section 3.4). Needs `two_stage`.
        with_box_refine: each decoder layer refines the boxes of the one before, with heads of its own.
        dropout: after attention and feed-forward; `attention_dropout`: of the decoder's self-attention weights;
            `activation_dropout`: inside the feed-forward.
        focal_prior: probability that a new class head gives to every class.
        category_ids: the ids that the training data itself gives to its classes, in the order of `id2label` (COCO's 80
            classes have ids up to 90), so that detections can be written with them.
        score_threshold: the score above which boxes are of use, which training finds on its validation data (the best
            F1 at IoU 0.5); what draws or lists boxes starts from it. None: not known.
        int8: most of the model is in int8, as `ddetr export --to int8` makes it: for inference on a CPU.
        class_cost, bbox_cost, giou_cost: weights of the matcher.
        class_loss_coefficient, bbox_loss_coefficient, giou_loss_coefficient: weights of the loss.
        quality_target: in training a matched box's class has the target score**x * IoU**(1 - x) in place of the focal
            loss's 1, for this x (see `quality_target.py`). None: the focal loss.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a combination that no model can be built from; its cause is a
            ValueError that says which.
        ValueError: for names of classes that are none, and for settings that would break the config itself.

    Source: configs/deformable_detr of MMDetection 3.1.0; Zhu et al., Deformable DETR (arXiv:2010.04159).

    Example:
        >>> DeformableDetrRefineConfig(num_labels=3).variant
        'refine_twostage'
    """

    model_type = "deformable_detr_refine"
    attribute_map = {
        "hidden_size": "d_model",
        "embed_dims": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    }
    # The Trainer gathers every output that is not named here: `loss_dict`, which transformers' detection guides count
    # as the first prediction, logits and boxes.
    keys_to_ignore_at_inference = [
        "intermediate_logits",
        "intermediate_pred_boxes",
        "initial_reference_points",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
        "decoder_hidden_states",
        "encoder_attentions",
        "decoder_attentions",
        "cross_attentions",
        "encoder_sampling_locations",
        "decoder_sampling_locations",
        "encoder_logits",
        "encoder_pred_boxes",
    ]

    backbone: str = "resnet50"
    backbone_frozen_stages: int = 1
    dilation: bool = False
    neck_bias: bool = False
    d_model: int = 256
    num_feature_levels: int = 4
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 1024
    encoder_n_points: int = 4
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 1024
    decoder_n_points: int = 4
    num_queries: int = 300
    two_stage: bool = True
    mixed_query_selection: bool = False
    with_box_refine: bool = True
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.1
    inverse_sigmoid_eps: float = 1e-5
    focal_prior: float = 0.01
    focal_alpha: float = 0.25
    focal_gamma: float | int = 2.0
    class_cost: float | int = 2.0
    bbox_cost: float | int = 5.0
    giou_cost: float | int = 2.0
    class_loss_coefficient: float | int = 2.0
    bbox_loss_coefficient: float | int = 5.0
    giou_loss_coefficient: float | int = 2.0
    quality_target: float | int | None = None
    category_ids: list[int | str] | None = None
    score_threshold: float | None = None
    int8: bool = False
    is_encoder_decoder: bool = True
    if TYPE_CHECKING:  # transformers fills both whenever a config is made
        id2label: dict[int, str] = field(default_factory=dict)  # pyright: ignore[reportIncompatibleVariableOverride]
        num_labels: int = 2  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self, **kwargs: Any) -> None:
        check_words(self, kwargs)
        super().__post_init__(**kwargs)

    @property
    def variant(self) -> str:
        """'plain', 'refine' or 'refine_twostage', as MMDetection names its configs."""
        if self.two_stage:
            return "refine_twostage"
        return "refine" if self.with_box_refine else "plain"

    def validate_architecture(self) -> None:
        """Called by `@strict` after construction."""
        if self.two_stage and not self.with_box_refine:
            raise ValueError("two_stage=True needs with_box_refine=True, which refines the first stage's boxes.")
        if self.mixed_query_selection and not self.two_stage:
            raise ValueError("mixed_query_selection=True needs two_stage=True, whose proposals say where queries look.")
        check_fields(self)
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, name):
                raise ValueError(f"d_model={self.d_model} is not divisible by {name}={getattr(self, name)}.")
        if self.d_model % 32:
            raise ValueError(f"d_model={self.d_model} is not divisible by 32, the groups of the neck's group norm.")

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        with bounded_file(pretrained_model_name_or_path, "config.json"):
            values, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
            return dict(values.items()), rest

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        if not isinstance(config_dict, dict):
            raise ValueError(f"A config is an object of names and values, not a {type(config_dict).__name__}.")
        # transformers would only warn, and build a model with none of the weights.
        if config_dict.get("model_type") == "deformable_detr":
            raise ValueError(
                "This is a model of transformers' own Deformable DETR (model_type deformable_detr): "
                "`ddetr convert MODEL FOLDER` makes a folder of it that this package loads."
            )
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:  # two lines, with a value of any length
            reason = str(error.__cause__ or error)
            raise ValueError(reason if len(reason) <= 300 else f"{reason[:297]}...") from error

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        if output.get("auto_map"):
            # For a preprocessor_config.json that does not name its class and code itself.
            output["auto_map"]["AutoImageProcessor"] = (
                "image_processing_deformable_detr_refine.DeformableDetrRefineImageProcessor"
            )
        return output


DeformableDetrRefineConfig.register_for_auto_class()

__all__ = ["DeformableDetrRefineConfig"]
