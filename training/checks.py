"""What would stop a run after its first step, or make it wrong: found before any work."""

from dataclasses import fields
from importlib.util import find_spec
from typing import cast

import torch
from huggingface_hub import whoami
from huggingface_hub.utils import httpx, validate_repo_id
from transformers import PreTrainedModel, SchedulerType, Trainer, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.training_args import OptimizerNames

from deformable_detr_refine.data.formats.load import check_source
from deformable_detr_refine.evaluation.metrics.azure import METRICS, AzureEvaluation
from deformable_detr_refine.evaluation.metrics.coco import COCO_METRICS
from deformable_detr_refine.machine import warn_of_slow_numbers
from deformable_detr_refine.messages import one_line, printable
from deformable_detr_refine.secret_text import without_secrets

from .arguments import DataArguments, DetectionTrainingArguments
from .scaling import check_scaling
from .setting_values import fault_of


def check_settings(data: DataArguments, args: DetectionTrainingArguments) -> None:
    """Check that every setting can be used, and that what it needs is installed.

    Raises:
        FileNotFoundError: there is no such data set.
        ValueError: the first that cannot; the message says what was expected, or what to install.
    """
    if missing := [name for name in ("datasets", "pycocotools", "matplotlib", "jinja2") if find_spec(name) is None]:
        raise ValueError(f'Training needs {", ".join(missing)}: pip install "deformable-detr-refine[train]".')
    for part in (data, args):
        for item in fields(part):
            if item.init and (fault := fault_of(item.name, getattr(part, item.name))):
                raise ValueError(f"{item.name} is {getattr(part, item.name)!r}, {fault}.")
    AzureEvaluation(METRICS, args.iou_threshold, args.box_score_threshold)
    if data.split_every and data.validation_data:
        raise ValueError("Give --split_every or --validation_data, not both: either says what to evaluate on.")
    if data.longest_edge and not data.shortest_edge:
        raise ValueError(f"longest_edge {data.longest_edge} needs shortest_edge, to which an image is brought first.")
    if data.shortest_edge and data.longest_edge and data.shortest_edge > data.longest_edge:
        raise ValueError(f"shortest_edge {data.shortest_edge} is above longest_edge {data.longest_edge}.")
    if data.tiling and args.metric_for_best_model in ("loss", "eval_loss"):
        raise ValueError("metric_for_best_model loss: an evaluation in tiles has none; take AP.")
    for source in filter(None, (data.data, data.validation_data)):
        check_source(source)
    check_scaling(args)
    _check_integrations(args)
    _check_optimizer(args)
    if args.dataloader_num_workers == 0 and (args.dataloader_prefetch_factor or args.dataloader_persistent_workers):
        name = "dataloader_prefetch_factor" if args.dataloader_prefetch_factor else "dataloader_persistent_workers"
        raise ValueError(f"{name} is for processes that load images, of which dataloader_num_workers 0 starts none.")
    if args.fp16 and args.device.type == "cpu":
        raise ValueError("fp16 is for a GPU; on a CPU --bf16 true computes in 16 bits.")
    if args.bf16 and args.process_index == 0:
        warn_of_slow_numbers(torch.bfloat16, args.device)


def check_batches(args: DetectionTrainingArguments, images: int) -> None:
    """Check that the images make a batch: a run without a step would write a model that learned nothing."""
    needed = args.train_batch_size * args.world_size
    if images == 0 or (args.dataloader_drop_last and images < needed):
        raise ValueError(
            f"{images} images to train on make no batch of {needed}, so no step: smaller batches "
            "(--per_device_train_batch_size), or --dataloader_drop_last false."
        )


def check_evaluation(args: DetectionTrainingArguments, has_validation: bool) -> None:
    """Check that there is validation data where an evaluation is asked for."""
    if args.eval_strategy != "no" and not has_validation:
        raise ValueError(
            "There is no validation data to evaluate on: --split_every 5 takes every 5th training image, "
            "--validation_data another data set; or --eval_strategy no --load_best_model_at_end false."
        )
    if args.early_stopping_patience and args.eval_strategy == "no":
        raise ValueError("early_stopping_patience counts evaluations, of which there are none: --eval_strategy epoch.")


def check_metric(args: DetectionTrainingArguments, names: tuple[str, ...]) -> None:
    """Check that an evaluation gives metric_for_best_model, for classes of these names."""
    asked = (args.metric_for_best_model or "").removeprefix("eval_")
    known = ["loss", *COCO_METRICS, *METRICS[:3], *(f"AP_{name}" for name in names)]
    # The Trainer looks for it after every evaluation, whatever it is for.
    if args.metric_for_best_model and asked not in known:
        raise ValueError(
            f"There is no metric_for_best_model {asked!r}; there are {', '.join(map(printable, known[:40]))}."
        )


def _check_integrations(args: DetectionTrainingArguments) -> None:
    for name in args.integrations:
        if name not in (*INTEGRATION_TO_CALLBACK, "none", "all"):
            raise ValueError(f"report_to is {name!r}, expected none or some of {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name in INTEGRATION_TO_CALLBACK and name not in get_available_reporting_integrations():
            raise ValueError(f"report_to {name} needs a package that is not installed: pip install {name}.")
    if args.push_to_hub and args.process_index == 0:
        try:
            if args.hub_model_id:
                validate_repo_id(args.hub_model_id)
            whoami(args.hub_token)
        except (httpx.HTTPError, OSError, ValueError) as error:
            reason = without_secrets(one_line(error), args.hub_token).rstrip(".")
            raise ValueError(f"push_to_hub cannot be used: {reason}. `ddetr push` uploads a finished run.") from error


def _check_optimizer(args: DetectionTrainingArguments) -> None:
    """That the optimiser, which may be one of some other package, and its schedule take these options."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    try:
        # Some look for their layers in it, in any module.
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args, cast("PreTrainedModel", torch.nn.Module()))
        optimizer = kind([{"params": [parameter], "weight_decay": args.weight_decay}], **options)
    except Exception as error:  # whatever a package raises
        name = OptimizerNames(args.optim).value
        raise ValueError(f"optim {name} cannot be used: {one_line(error).rstrip('.')}.") from error
    if not args.lr_drop_epochs:
        name = SchedulerType(args.lr_scheduler_type).value
        try:
            get_scheduler(name, optimizer, 0, 1, cast("dict | None", args.lr_scheduler_kwargs))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"lr_scheduler_type {name} does not go with these lr_scheduler_kwargs: {one_line(error).rstrip('.')}."
            ) from error


__all__ = ["check_batches", "check_evaluation", "check_metric", "check_settings"]
