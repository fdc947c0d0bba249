"""A whole training run: settings, data, model, training, evaluation, report."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import SchedulerType, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from deformable_detr_refine.data.augmentation.recipe import training_transform
from deformable_detr_refine.data.detection_data import DetectionData
from deformable_detr_refine.data.examples import Examples
from deformable_detr_refine.data.tiled_rows import TiledRows, check_tiles
from deformable_detr_refine.evaluation.metrics.azure import METRICS, AzureEvaluation, azure_metrics
from deformable_detr_refine.files import full_disk_told, new_path
from deformable_detr_refine.messages import counted
from deformable_detr_refine.modeling.size_rules import checked_size, nearest_edges

from .checks import check_batches, check_evaluation, check_metric, check_settings
from .finished_folder import code_aside, write_card
from .mlflow_run import MlflowPictures, log_files, mlflow_run
from .model import build_model, build_processor
from .model_card import nothing_yet
from .output_folder import SETTINGS_FILE, changed_settings, checkpoint_to_resume
from .run_data import read_run_data, usable_images
from .settings import Settings, settings_text
from .trainer import DetectionTrainer


def run(settings: Settings) -> dict[str, float]:
    """Trains as the settings say, and writes the detector, metrics and report to output_dir.

    Returns:
        The metrics of the last evaluation; empty after a dry run, or without validation data.

    Raises:
        ValueError, OSError: settings, data or model that cannot be used, before any work.
        FloatingPointError: a loss that is not finite; its batch is kept for `ddetr train --replay`.
    """
    model_args, data_args, args = settings
    output = Path(args.output_dir)
    transformers.set_seed(args.seed)
    check_settings(data_args, args)
    say = print if args.process_index == 0 else lambda *_: None
    checkpoint = checkpoint_to_resume(args, say)
    changes = changed_settings(checkpoint, settings) if checkpoint else ""
    transformers.utils.logging.disable_progress_bar()  # of every checkpoint's shards; the Trainer's own stays
    # Of 1x1 convolutions, whose strides of length 1 PyTorch writes in two ways; nothing is copied more for it.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # accelerate has only the old name of the switch; of FSDP2's views, none is written into.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")

    processor = build_processor(model_args, data_args)  # and so a model's name is checked before the data
    with args.main_process_first(desc="reading the data set"):
        run_data = read_run_data(data_args, say)
    check_evaluation(args, run_data.validation is not None)
    data = run_data.data
    edges = nearest_edges(checked_size(processor.size))
    augmentation = training_transform(data_args.augmentation, *edges, vertical_flip=data_args.vertical_flip)
    if not checkpoint and model_args.model is None and model_args.backbone_weights == "pretrained":
        say("The backbone's ImageNet weights come from the cache, or else from the Hub, for which it may try a minute.")
    model, origin = build_model(model_args, data.label_map, args.head_surgery)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(f"Model: {origin} {parameters / 1e6:.1f} million parameters are trained.")
    run_data = usable_images(run_data, processor, data_args, args, say)
    to_evaluate = "none" if run_data.validation is None else len(run_data.validation)
    say(
        f"Data: {data.source} ({data.format}), {len(data.label_map)} classes; "
        f"{len(run_data.train)} images to train on, {to_evaluate} to evaluate on."
    )
    rows, tiling = run_data.train, data_args.tiling
    if tiling is not None:
        for split in (rows, run_data.validation):
            if split is not None:
                check_tiles(split, tiling, processor.resized_shape)
        rows = TiledRows(rows, tiling, data_args.tile_share)
        say(f"With their tiles {counted(len(rows), 'image')} to train on.")
    check_batches(args, len(rows))
    if run_data.validation is not None:
        check_metric(args, data.label_map.names)
    examples = Examples(rows, processor, augmentation, args.seed)
    validation = Examples(run_data.validation, processor) if run_data.validation is not None else None
    if args.dry_run:
        from .dry_run import dry_run

        say(dry_run(model, examples, args, output))
        return {}

    trainer = DetectionTrainer(model, args, examples, validation, tiling=tiling)
    if "mlflow" in args.integrations and validation is not None:
        trainer.add_callback(MlflowPictures(trainer))
    # Else dropout would draw the same in every process.
    torch.manual_seed(args.seed + args.process_index)
    if checkpoint:
        say(f"Going on from {checkpoint}{', from here on with ' + changes if changes else ''}.")
    trainer.add_callback(_Beginning(settings_text(settings), say))
    kept = f"{output} is not finished, and what was written before it is kept"
    with mlflow_run(args), full_disk_told(output, kept, "go on with --resume_from_checkpoint true"):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        _check_steps(trainer, checkpoint, say)
        trainer.save_model()
        metrics = trainer.evaluate() if validation is not None else {}
        if trainer.is_world_process_zero():
            with new_path(output / TRAINER_STATE_NAME) as new:
                trainer.state.save_to_json(str(new))
            # A pickle that nothing here reads; the settings stand in settings.yaml.
            (output / "training_args.bin").unlink(missing_ok=True)
            code_aside(output)
            if validation is not None:
                _write_evaluation(trainer, data, validation, output)
                log_files(output / "report.html", output / "metrics.json")
            write_card(output, trainer.model)
            written = sorted(path.name for path in output.iterdir())
            if validation is not None:
                count = counted(len(validation), "image")
                say(f"AP {metrics['eval_AP']:.4f}, AP50 {metrics['eval_AP50']:.4f} on {count}.")
                if said := nothing_yet(metrics, "eval_AP50"):
                    say(said)
            say(f"Written: {output} ({', '.join(written)})")
    return metrics


class _Beginning(TrainerCallback):
    """When the checkpoint, if any, has been accepted, so that a refused run leaves the settings of that which made it:
    writes the settings, and tells of a warm-up without an end."""

    def __init__(self, text: str, say: Callable[[str], None]) -> None:
        self.text, self.say = text, say

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and state.global_step <= state.max_steps:
            with new_path(Path(args.output_dir or "") / SETTINGS_FILE) as new:
                new.write_text(self.text, encoding="utf-8")
        warmup, kind = args.get_warmup_steps(state.max_steps), args.lr_scheduler_type
        if warmup > state.max_steps and kind not in (SchedulerType.CONSTANT, SchedulerType.REDUCE_ON_PLATEAU):
            self.say(
                f"The warm-up takes {warmup} steps and the run {state.max_steps}: the learning rate does not reach "
                f"{args.learning_rate:g}; give fewer --warmup_steps."
            )


def _check_steps(trainer: DetectionTrainer, checkpoint: Path | None, say: Callable[[str], None]) -> None:
    """Check that the run did not go on from a checkpoint beyond its own end, and tell where there was nothing to do."""
    done, planned = trainer.state.global_step, trainer.state.max_steps
    if done > planned:
        raise ValueError(
            f"{checkpoint} has made {done} steps, and this run is to make {planned}: raise --num_train_epochs "
            "(or --max_steps) to go on, or use the checkpoint as it is."
        )
    if not trainer.trained:
        say(f"All {done} steps had been made already: nothing was trained. More --num_train_epochs go on.")


def _write_evaluation(trainer: DetectionTrainer, data: DetectionData, validation: Examples, output: Path) -> None:
    from deformable_detr_refine.data.row_image import row_image
    from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
    from deformable_detr_refine.evaluation.report.report import (
        is_useful,
        origin,
        page_facts,
        useful_threshold,
        write_report,
    )
    from deformable_detr_refine.evaluation.report.result_files import write_detections, write_metrics, write_per_class

    names, category_ids, images = data.label_map.names, data.coco_ids, trainer.evaluated
    args = trainer.args
    azure = AzureEvaluation(METRICS, args.iou_threshold, args.box_score_threshold)
    metrics, by_azure = coco_metrics(images, names), azure_metrics(images, names, azure)
    # One threshold for precision and recall in the CSV and on the page.
    threshold = args.box_score_threshold if "box_score_threshold" in args.given else useful_threshold(images)
    per_label = AzureEvaluation(["per_label_metrics"], args.iou_threshold, threshold)
    by_label = azure_metrics(images, names, per_label)["per_label_metrics"]
    about = {
        **origin(output),
        "threshold": threshold,
        "azure_threshold": args.box_score_threshold,
        "device": str(args.device),
        "dtype": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        **({"tiling": str(trainer.tiling)} if trainer.tiling else {}),
    }
    if "box_score_threshold" in args.given or is_useful(images):
        _keep_threshold(output, threshold)
    write_detections(output / "detections.json", images, category_ids)
    write_per_class(output / "per_class.csv", metrics["per_class"], by_label, category_ids)
    write_metrics(output / "metrics.json", {**metrics, "azure": by_azure, "about": about})
    rows = validation.rows
    index_of = {image_id: index for index, image_id in enumerate(rows["image_id"])}
    write_report(
        images,
        metrics,
        names,
        output,
        image_of=lambda image: row_image(rows[index_of[image.image_id]]),
        title=f"Validation of {output.name}",
        history=trainer.state.log_history,
        threshold=threshold,
        facts=page_facts(about),
    )


def _keep_threshold(folder: Path, threshold: float) -> None:
    """The detector carries it: what draws or lists its boxes begins with it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with new_path(folder / "config.json") as new:
        new.write_text(json.dumps({**config, "score_threshold": threshold}, indent=2, sort_keys=True) + "\n")
