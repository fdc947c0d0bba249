"""What a training run is told: the model, the data, and transformers' TrainingArguments with a detector's defaults."""

import os
from dataclasses import MISSING, dataclass, field, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from deformable_detr_refine.data.tiled_rows import SHARE
from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.inference.tiles import Tiling, grid_of


@dataclass
class ModelArguments:
    """Where the model comes from: a trained detector (`model`), or a new one from `model_config`."""

    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub name of a detector to fine-tune. Without it a new one is built."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model of the Hub."})
    model_config: str = field(
        default="{}",
        metadata={
            "help": "Fields of DeformableDetrRefineConfig to change, as JSON or a YAML mapping. As of every mapping, "
            "fields on the command line are added to those of the file, and win."
        },
    )
    improved_recipe: bool = field(
        default=False,
        metadata={
            "help": "For a new detector, more AP than by MMDetection's recipe: the class of a box learns its overlap, "
            "and queries are learned. A trained one keeps its queries. Sets fields that model_config does not give."
        },
    )
    backbone_weights: str | None = field(
        default=None,
        metadata={"help": "ImageNet weights of a new model's backbone: a file, or 'pretrained' (from timm, by name)."},
    )
    freeze: list[str] = field(
        default_factory=list,
        metadata={"help": "Parameters to keep as they are, by parts of their names: backbone neck encoder ..."},
    )


@dataclass
class DataArguments:
    """Which images and boxes, and what is done to them."""

    data: str = field(
        default="",
        metadata={"help": "Data set: a folder or file (COCO, VOC, YOLO, Azure JSONL, datasets) or a Hub name."},
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    validation_data: str | None = field(default=None, metadata={"help": "Data set to evaluate on, when not `data`."})
    split_every: int | None = field(
        default=None, metadata={"help": "Take every n-th training image for validation (Azure's sample: 5)."}
    )
    defects: str = field(
        default="error",
        metadata={"help": "'error' stops at data that would be lost; 'skip' leaves it out and says how much."},
    )
    check_images: bool = field(
        default=True,
        metadata={"help": "Decode every image once before the first step, so that a damaged one is found then."},
    )
    augmentation: str = field(
        default="light",
        metadata={
            "help": "mmdet (the recipe of COCO), light, none, or a list of MMDetection's transforms by its own names, "
            "[{type: RandomFlip, prob: 0.5}, ...]."
        },
    )
    tiles: str | None = field(
        default=None,
        metadata={"help": "Also train on tiles of the images, COLUMNSxROWS as 3x2, and evaluate with them."},
    )
    tile_size: int | None = field(default=None, metadata={"help": "Side of a tile in pixels, instead of tiles."})
    tile_overlap: float = field(default=Tiling.overlap, metadata={"help": "Of neighbours, as a share of their side."})
    tile_share: float = field(
        default=SHARE, metadata={"help": "A tile has the objects whose centre, or this share of their area, is in it."}
    )
    tile_nms: float = field(
        default=Tiling.nms_threshold,
        metadata={"help": "In evaluations: IoU above which the worse of two boxes of one class is dropped."},
    )
    vertical_flip: bool = field(default=False, metadata={"help": "Also mirror top and bottom (cells, aerial views)."})
    shortest_edge: int | None = field(
        default=None, metadata={"help": "Images are resized to this shortest edge (default: the model's own, or 800)."}
    )
    longest_edge: int | None = field(
        default=None, metadata={"help": "The longest edge is never longer than this (default 5/3 of the shortest)."}
    )

    @property
    def tiling(self) -> Tiling | None:
        """How images are cut, or None.

        Raises:
            ValueError: what is said of tiles makes none.
        """
        if self.tiles is None and self.tile_size is None:
            for item in fields(self):
                if item.name.startswith("tile_") and getattr(self, item.name) != item.default:
                    raise ValueError(f"{item.name} is of tiles, of which there are none: give tiles or tile_size.")
            return None
        grid = grid_of(self.tiles) if self.tiles else None
        return Tiling(grid, self.tile_size, self.tile_overlap, nms_threshold=self.tile_nms)


@dataclass
class DetectionTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments, with MMDetection's optimiser and what a detector needs of the Trainer."""

    if TYPE_CHECKING:  # where none is given, `__post_init__` names one
        output_dir: str = ""  # pyright: ignore[reportIncompatibleVariableOverride]

    learning_rate: float = field(default=2e-4, metadata={"help": "Peak learning rate (MMDetection: 2e-4 for 32)."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay, of all parameters as in MMDetection."})
    max_grad_norm: float = field(default=0.1, metadata={"help": "Gradients are clipped to this L2 norm."})
    slow_parameters: list[str] = field(
        default_factory=lambda: ["backbone", "sampling_offsets", "reference_points"],
        metadata={"help": "Parameters with any of these in their name learn slower."},
    )
    slow_factor: float = field(default=0.1, metadata={"help": "Factor on the learning rate of slow_parameters."})
    lr_drop_epochs: list[float] = field(
        default_factory=list,
        metadata={"help": "Multiply the learning rate by 0.1 after these epochs, instead of lr_scheduler_type."},
    )
    scale_lr_by_batch: int | None = field(
        default=None,
        metadata={"help": "Images a step that learning_rate is meant for; it is scaled to this run's."},
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Keep an exponential moving average of the weights; it is evaluated and saved."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better metric_for_best_model."}
    )
    head_surgery: bool = field(
        default=True,
        metadata={"help": "With new classes, keep the ranking of proposals and the class rows of known names."},
    )
    iou_threshold: float = field(
        default=0.5,
        metadata={"help": "For Azure's metrics (mean_average_precision, ...): overlap that finds an object."},
    )
    box_score_threshold: float = field(
        default=THRESHOLD, metadata={"help": "For Azure's metrics: boxes with scores above it count."}
    )
    save_as_mlflow_model: bool = field(
        default=False, metadata={"help": "Also write an MLflow model, output_dir/mlflow."}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Draw a batch as the model sees it, time loader and model, and stop before training."},
    )
    report_to: list[str] | str | None = field(
        default="none", metadata={"help": "Integrations to report to: none, mlflow, tensorboard, wandb, ..."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay off: all columns are used."})
    eval_do_concat_batches: bool = field(default=False, metadata={"help": "Must stay off: targets are ragged."})
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Every parameter has its part in the loss."},
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={"help": "Batch norm's statistics, the only buffers, are frozen and equal on all ranks."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Waits for a GPU at each step; a loss that is not finite stops training anyway."},
    )
    metric_for_best_model: str | None = field(
        default="AP", metadata={"help": "AP, AP50, ..., Azure's mean_average_precision, precision, recall, or loss."}
    )
    greater_is_better: bool | None = field(default=None, metadata={"help": "Whether that metric should grow."})
    torch_compile: bool = field(
        default=False,
        metadata={"help": "Compile the network, as one graph for all sizes of images; the loss stays outside."},
    )
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Key of the targets."})
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that load and augment images."})
    dataloader_persistent_workers: bool = field(
        default=True, metadata={"help": "Keep these processes from epoch to epoch, where there are any."}
    )

    def __post_init__(self) -> None:
        # Before TrainingArguments fill themselves in.
        self.given: dict[str, Any] = {
            item.name: value
            for item in fields(self)
            if item.init and (value := getattr(self, item.name)) not in defaults_of(item)
        }
        if isinstance(self.fsdp, str) and self.fsdp.lower() in ("true", "false"):
            self.fsdp = self.fsdp.lower() == "true" or None  # pyright: ignore[reportAttributeAccessIssue]
        if self.greater_is_better is None and self.metric_for_best_model:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")
        if self.deepspeed and find_spec("deepspeed") is None:
            raise ValueError("deepspeed needs a package that is not installed: pip install deepspeed.")
        if self.ddp_backend and "WORLD_SIZE" not in os.environ:
            raise ValueError("ddp_backend is for several processes: start them with torchrun or accelerate.")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other: give one of them, and the other one false.")
        if self.load_best_model_at_end and self.save_strategy not in (self.eval_strategy, "best"):
            raise ValueError(
                "load_best_model_at_end needs the same eval_strategy and save_strategy: make them the same, or add "
                "--load_best_model_at_end false."
            )
        # Without a GPU transformers takes bf16 only where it is told that the CPU is meant.
        self.use_cpu = self.use_cpu or (self.bf16 and not torch.accelerator.is_available())
        super().__post_init__()
        self.dataloader_persistent_workers = self.dataloader_persistent_workers and self.dataloader_num_workers > 0
        # Without an accelerator there is nothing to pin memory for, and PyTorch says so at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()

    @property
    def integrations(self) -> list[str]:
        """What `report_to` names."""
        return [self.report_to] if isinstance(self.report_to, str) else self.report_to or []


def defaults_of(item: Any) -> tuple:
    """The default of a setting, and as what else the parser may give it."""
    default = item.default if item.default_factory is MISSING else item.default_factory()
    # The parser reads the default "no" of a field that may be text or a bool as false.
    return (default, False) if default == "no" else (default,)
