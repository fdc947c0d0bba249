"""Deformable DETR with iterative box refinement and two stages, as transformers models.

Zhu et al., Deformable DETR: Deformable Transformers for End-to-End Object Detection (arXiv:2010.04159), in the form of
MMDetection 3.1.0 (mmdet/models/detectors/deformable_detr.py), to the fifth digit.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from .backbone import Backbone, Neck
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .first_stage import FirstStage, Proposals
from .heads import ClassHead
from .initial_weights import initialize, initialize_start
from .int8_model import to_int8_form
from .linear import linear
from .loss import detection_loss
from .outputs import DeformableDetrRefineModelOutput, DeformableDetrRefineObjectDetectionOutput
from .positions import (
    box_proposals,
    cell_centres,
    level_mask,
    level_sizes,
    mask_of_sizes,
    sine_position_embedding,
    valid_sizes,
)
from .transformer import Decoder, Encoder, Pyramid

# The pipeline looks its models up in this table and warns about any other.
_pipeline_models = cast("dict[str, str]", modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)
_pipeline_models.setdefault(DeformableDetrRefineConfig.model_type, "DeformableDetrRefineForObjectDetection")


class DeformableDetrRefinePreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, the same for both models."""

    config_class = DeformableDetrRefineConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Backbone", "Neck", "EncoderLayer", "DecoderLayer", "FirstStage"]
    if TYPE_CHECKING:
        config: DeformableDetrRefineConfig

        # transformers' wrapper hides the signature.
        def to(self, *args: Any, **kwargs: Any) -> Self: ...  # pyright: ignore[reportIncompatibleVariableOverride]

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For custom code transformers passes over modules without parameters of their own (an attention, a box head),
        # in case `_init_weights` overwrites what a checkpoint filled. Ours never does.
        super()._initialize_weights(module)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Called for each module, children first; leaves alone what a checkpoint filled."""
        if isinstance(module, DeformableDetrRefineModel):
            initialize_start(module.level_embed, None if module.config.two_stage else module.reference_points)
        else:
            initialize(module)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # No gradient passes through int8; again each time, since a loaded checkpoint's parameters take gradients.
        if self.config.int8:
            self.requires_grad_(False)
        return self

    def freeze_backbone(self) -> None:
        """Train everything but the backbone."""
        self._backbone.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train the backbone again, as its config says: batch norm and `backbone_frozen_stages` stay frozen."""
        self._backbone.requires_grad_(True)._freeze()

    @property
    def _backbone(self) -> Backbone:
        return next(module for module in self.modules() if isinstance(module, Backbone))

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by `torch.jit.script`."""
        raise NotImplementedError(
            "TorchScript does not take this model: use torch.compile, or `ddetr export` (ONNX, torch.export)."
        )

    def get_input_embeddings(self) -> None:
        """None: a detector takes pixels, not tokens. FSDP and torchao's quantisation ask."""

    def _asked(self, name: str, given: bool | None) -> bool:
        """Whether an optional output is wanted: as given in the call, else as in the config."""
        return bool(getattr(self.config, name, False) if given is None else given)


class DeformableDetrRefineModel(DeformableDetrRefinePreTrainedModel):
    """Backbone, neck, encoder, first stage (when two-stage) and decoder: everything but the decoder's class heads."""

    _keys_to_ignore_on_load_unexpected = [r"^class_heads\."]

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(config.backbone, config.backbone_frozen_stages, config.dilation)
        self.neck = Neck(self.backbone.widths, config.d_model, config.num_feature_levels, config.neck_bias)
        self.level_embed = nn.Parameter(torch.empty(config.num_feature_levels, config.d_model))
        self.encoder = Encoder(config)
        if config.two_stage:
            self.first_stage = FirstStage(config)
        else:
            self.query_embedding = nn.Embedding(config.num_queries, 2 * config.d_model)
            self.reference_points = nn.Linear(config.d_model, 2)
        self.decoder = Decoder(config)
        if config.int8:
            to_int8_form(self)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_proposals: bool | None = None,
        return_dict: bool | None = None,
    ) -> DeformableDetrRefineModelOutput | tuple[Any, ...]:
        """
        Args:
            pixel_values: (B, 3, height, width), normalised, padded with 0 on the right and at the bottom.
            pixel_mask: (B, height, width), 1 on the image and 0 on padding; None when nothing is padded.
            output_hidden_states, output_attentions, output_proposals: fill the output's optional fields; None: as the
                config says.
            return_dict: False gives the output's filled fields as a tuple; None: as the config says.
        """
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] (documented, but not in __all__)
            self.__prepare_scriptable__()
        hidden_asked = self._asked("output_hidden_states", output_hidden_states)
        attentions_asked = self._asked("output_attentions", output_attentions)
        pyramid = self._pyramid(pixel_values, pixel_mask)
        encoded = self.encoder(pyramid, hidden_asked, attentions_asked)
        start = self._queries(encoded.tokens, pyramid, self._asked("output_proposals", output_proposals))
        decoded = self.decoder(start.query, start.position, start.boxes, encoded.tokens, pyramid, attentions_asked)
        output = DeformableDetrRefineModelOutput(
            last_hidden_state=decoded.hidden_states[-1],
            pred_boxes=decoded.boxes[-1],
            intermediate_hidden_states=torch.stack(decoded.hidden_states[1:]),
            intermediate_pred_boxes=torch.stack(decoded.boxes),
            initial_reference_points=start.boxes,
            encoder_last_hidden_state=encoded.tokens if hidden_asked else None,
            encoder_hidden_states=encoded.hidden_states or None,
            decoder_hidden_states=decoded.hidden_states if hidden_asked else None,
            encoder_attentions=encoded.attentions or None,
            decoder_attentions=decoded.attentions or None,
            cross_attentions=decoded.cross_attentions or None,
            encoder_sampling_locations=encoded.sampling_locations or None,
            decoder_sampling_locations=decoded.sampling_locations or None,
            encoder_logits=start.all_logits,
            encoder_pred_boxes=start.all_boxes,
        )
        return output if self._asked("return_dict", return_dict) else output.to_tuple()

    def _pyramid(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> Pyramid:
        levels = self.neck(self.backbone(pixel_values))
        shapes = [tuple(level.shape[-2:]) for level in levels]
        if pixel_mask is not None and _nothing_is_padded(pixel_mask):
            pixel_mask = None
        masks, positions, centres, valid_ratios = [], [], [], []
        for shape, embedding in zip(shapes, self.level_embed, strict=True):
            mask = None if pixel_mask is None else level_mask(pixel_mask, shape)
            masks.append(mask)
            sines = sine_position_embedding(shape, mask, embedding.shape[0], embedding.device)
            positions.append(sines.to(embedding.dtype) + embedding)
            size = valid_sizes(shape, mask, embedding.device)
            centres.append(cell_centres(shape, size))
            valid_ratios.append(size / level_sizes((shape,), size.device))
        return Pyramid(
            tokens=torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1),
            position=torch.cat(positions, 1),
            centres=torch.cat(centres, 1),
            shapes=shapes,
            token_mask=None if pixel_mask is None else torch.cat([mask.flatten(1) for mask in masks], 1),
            valid_ratios=torch.stack(valid_ratios, 1),
        )

    def _queries(self, tokens: Tensor, pyramid: Pyramid, keep_all: bool) -> Proposals:
        """Where the decoder starts: at the first stage's best boxes, or at learned points."""
        if self.config.two_stage:
            proposals = box_proposals(pyramid.centres, pyramid.shapes)
            return self.first_stage(tokens, proposals, pyramid.token_mask, keep_all)
        slots = torch.arange(self.config.num_queries, device=tokens.device).expand(tokens.shape[0], -1)
        position, query = self.query_embedding(slots).chunk(2, dim=-1)
        points = self.reference_points(position).sigmoid()
        return Proposals(query, position, points.to(pyramid.centres.dtype), None, None)


def _nothing_is_padded(pixel_mask: Tensor) -> bool:
    # Asking an accelerator would make the program wait for it; a graph cannot ask.
    return pixel_mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(pixel_mask.all())


class DeformableDetrRefineForObjectDetection(DeformableDetrRefinePreTrainedModel):
    """The detector: the model with a class head for each decoder layer (plain: one for all), and the loss.

    Example:
        >>> config = DeformableDetrRefineConfig(backbone="resnet18", encoder_layers=1, decoder_layers=2, num_queries=20)
        >>> model = DeformableDetrRefineForObjectDetection(config)  # random weights; nothing is downloaded
        >>> pixels = torch.rand(1, 3, 64, 96)
        >>> labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}]
        >>> outputs = model(pixels, labels=labels)
        >>> outputs.logits.shape, outputs.pred_boxes.shape
        (torch.Size([1, 20, 2]), torch.Size([1, 20, 4]))
        >>> list(outputs.loss_dict)[:4]
        ['enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou', 'd0.loss_cls']
    """

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__(config)
        self.model = DeformableDetrRefineModel(config)
        self.class_heads = nn.ModuleList(
            ClassHead(config.d_model, config.num_labels, config.focal_prior) for _ in self.model.decoder.box_heads
        )
        # transformers would pick plain DETR's softmax loss, by this class's name.
        self.loss_function = detection_loss
        self.post_init()

    def load_backbone_weights(self, weights: str | Path) -> None:
        """Start the backbone from ImageNet weights: a timm name such as 'resnet50.tv_in1k', or a file of weights."""
        self.model.backbone.load_weights(weights)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_proposals: bool | None = None,
        return_dict: bool | None = None,
    ) -> DeformableDetrRefineObjectDetectionOutput | tuple[Any, ...]:
        """
        Args:
            pixel_values: (B, 3, height, width), normalised, padded with 0 on the right and at the bottom.
            pixel_mask: (B, height, width), 1 on the image and 0 on padding; None when nothing is padded, or the labels
                say what is.
            labels: a dict per image: `class_labels` (N,) and `boxes` (N, 4), cxcywh normalised by the image itself,
                never by the padded canvas. When there, `image_id` names the image in errors, and `size`, (height,
                width) of the image on the canvas, stands in for a pixel_mask that was not given.
            num_items_in_batch: number of boxes over all ranks and the whole accumulation window, to divide by.
                Without it, it is taken from this batch (and all ranks, in training).
            output_hidden_states, output_attentions, output_proposals: fill the output's optional fields; None: as the
                config says.
            return_dict: False gives the output's filled fields as a tuple; None: as the config says.

        Returns:
            `logits` and `pred_boxes` (cxcywh in 0..1 of the image itself) of the last layer; with labels `loss` and
            `loss_dict`; what else was asked for.

        Raises:
            ValueError: labels that do not fit: unknown classes, boxes that are not normalised.
            FloatingPointError: predictions that are not finite, with the images they belong to.
        """
        config = self.config
        hidden_asked = self._asked("output_hidden_states", output_hidden_states)
        attentions_asked = self._asked("output_attentions", output_attentions)
        proposals_asked = self._asked("output_proposals", output_proposals)
        needs_proposals = proposals_asked or (labels is not None and config.two_stage)
        if pixel_mask is None and labels and all("size" in target for target in labels):
            # transformers' guides leave the mask out where every canvas has one size; the labels know better.
            pixel_mask = mask_of_sizes([target["size"] for target in labels], pixel_values.shape[-2:])
        every_layer = labels is not None or hidden_asked
        outputs, logits = self._predictions(
            pixel_values, pixel_mask, hidden_asked, attentions_asked, needs_proposals, every_layer
        )
        loss = loss_dict = None
        if labels is not None:
            loss, loss_dict = self.loss_function(
                config,
                logits,
                outputs.intermediate_pred_boxes,
                labels,
                encoder_logits=outputs.encoder_logits,
                encoder_pred_boxes=outputs.encoder_pred_boxes,
                num_items_in_batch=num_items_in_batch,
                over_ranks=self.training,
            )
        asked = {"pred_boxes"}
        if hidden_asked:
            asked |= {"intermediate_pred_boxes", "initial_reference_points", "encoder_last_hidden_state"}
            asked |= {"encoder_hidden_states", "decoder_hidden_states"}
        if attentions_asked:
            asked |= {name for name in outputs if name.endswith(("attentions", "sampling_locations"))}
        if proposals_asked:
            asked |= {"encoder_logits", "encoder_pred_boxes"}
        output = DeformableDetrRefineObjectDetectionOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=logits[-1],
            intermediate_logits=logits if hidden_asked else None,
            **{name: outputs[name] for name in asked if name in outputs},
        )
        return output if self._asked("return_dict", return_dict) else output.to_tuple()

    def _predictions(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None,
        hidden_asked: bool,
        attentions_asked: bool,
        proposals_asked: bool,
        every_layer: bool,
    ) -> tuple[DeformableDetrRefineModelOutput, Tensor]:
        """The model's outputs, and the logits of every decoder layer, or of the last alone, (layers, B, Q, K)."""
        outputs = self.model(
            pixel_values, pixel_mask, hidden_asked, attentions_asked, proposals_asked, return_dict=True
        )
        hidden = outputs.intermediate_hidden_states if every_layer else outputs.last_hidden_state.unsqueeze(0)
        refines = self.config.with_box_refine
        heads = list(self.class_heads) if refines else [self.class_heads[0]] * self.config.decoder_layers
        logits = torch.stack([linear(x, head) for head, x in zip(heads[-len(hidden) :], hidden, strict=True)])
        return outputs, logits

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the network in place, as `torch.compile` does with the same arguments; the loss stays outside.

        `torch.compile(model)` serves inference; with labels it would look into them and compile again for other
        numbers of boxes.
        """
        self._predictions = torch.compile(self._predictions, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # As PyTorch leaves out its own: in a copy it would run this model's weights, and it cannot be pickled.
        state = super().__getstate__()
        state.pop("_predictions", None)
        return state


# Whatever is saved carries this code, so that a folder loads where only transformers is installed.
DeformableDetrRefineModel.register_for_auto_class("AutoModel")
DeformableDetrRefineForObjectDetection.register_for_auto_class("AutoModelForObjectDetection")

__all__ = [
    "DeformableDetrRefineForObjectDetection",
    "DeformableDetrRefineModel",
    "DeformableDetrRefinePreTrainedModel",
]
