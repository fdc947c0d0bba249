"""A whole training run: settings, data, model, training, evaluation, report."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import transformers

from deformable_detr_refine.conversion.model_folder import new_path
from deformable_detr_refine.data.augmentation import training_transform
from deformable_detr_refine.data.detection_data import DetectionData, split_every
from deformable_detr_refine.data.examples import Examples
from deformable_detr_refine.data.load import load_detection_data
from deformable_detr_refine.training.arguments import DataArguments, DetectionTrainingArguments
from deformable_detr_refine.training.checkpoints import has_random_state, newest_whole_checkpoint
from deformable_detr_refine.training.mlflow_run import MlflowPictures, log_files, mlflow_run
from deformable_detr_refine.training.model import build_model, build_processor
from deformable_detr_refine.training.settings import Settings, settings_text
from deformable_detr_refine.training.trainer import DetectionTrainer

# Smaller images are left out of training, as in MMDetection (filter_cfg min_size).
LEAST_SIDE = 32


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
    checkpoint = _checkpoint(args, output)
    say = print if args.process_index == 0 else lambda *_: None
    # Of 1x1 convolutions, whose strides of length 1 PyTorch writes in two ways; nothing is copied more for it.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")

    with args.main_process_first(desc="reading the data set"):
        data, train_rows, validation_rows = _rows(data_args, say)
    say(f"Data: {data!r}")
    processor = build_processor(model_args, data_args)
    size = processor.size["shortest_edge"], processor.size["longest_edge"]
    augmentation = training_transform(data_args.augmentation, *size, vertical_flip=data_args.vertical_flip)
    examples = Examples(train_rows, processor, augmentation, args.seed)
    validation = Examples(validation_rows, processor) if validation_rows is not None else None
    model, origin = build_model(model_args, data.label_map, args.head_surgery)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(f"Model: {origin} {parameters / 1e6:.1f} million parameters are trained.")
    if args.dry_run:
        from deformable_detr_refine.training.dry_run import dry_run

        say(dry_run(model, examples, args, output))
        return {}

    trainer = DetectionTrainer(model, args, examples, validation)
    if "mlflow" in args.report_to and validation is not None:
        trainer.add_callback(MlflowPictures(trainer))
    if checkpoint:
        say(f"Going on from {checkpoint}.")
    with mlflow_run(args):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model()
        metrics = trainer.evaluate() if validation is not None else {}
        trainer.save_state()
        if trainer.is_world_process_zero():
            # A pickle that nothing here reads; the settings stand in settings.yaml.
            (output / "training_args.bin").unlink(missing_ok=True)
            with new_path(output / "settings.yaml") as new:
                new.write_text(settings_text(settings), encoding="utf-8")
            if metrics:
                _write_evaluation(trainer, data, output)
                log_files(output / "report.html", output / "metrics.json")
            written = sorted(path.name for path in output.iterdir() if path.suffix != ".py")
            if metrics:
                say(f"AP {metrics['eval_AP']:.4f}, AP50 {metrics['eval_AP50']:.4f} on {len(validation)} images.")
            say(f"Written: {output} ({', '.join(written)})")
    return metrics


def _checkpoint(args: DetectionTrainingArguments, output: Path) -> Path | None:
    """The checkpoint to go on from; held before the data is read."""
    asked = args.resume_from_checkpoint
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs: start one for each (torchrun --nproc-per-node {args.n_gpu} ...), or "
            "show it one (CUDA_VISIBLE_DEVICES=0)."
        )
    if args.average_tokens_across_devices is False and args.world_size > 1:
        raise ValueError("average_tokens_across_devices must stay on: the loss is divided by all processes' boxes.")
    if asked not in (None, False, "false", "False", "", True, "true", "True"):
        if not Path(asked).is_dir():
            raise FileNotFoundError(f"There is no checkpoint {asked} to resume from.")
        return Path(asked)
    found = newest_whole_checkpoint(output)
    if asked in (True, "true", "True"):
        if found and not has_random_state(found, args.world_size):
            raise ValueError(
                f"{found} was written by another number of processes than {args.world_size}: go on with as many, or "
                f"name it (--resume_from_checkpoint {found}) to go on with new random numbers."
            )
        return found
    if found and not args.dry_run:
        raise ValueError(
            f"{output} holds checkpoints of an earlier run: go on with --resume_from_checkpoint true, "
            "or choose another --output_dir."
        )
    return None


def _rows(args: DataArguments, say: Callable[[str], None]) -> tuple[DetectionData, object, object]:
    """The data, its training rows and its validation rows (None when there are none)."""
    if not args.data:
        raise ValueError("There is no data set to train on: give --data FOLDER (or `data:` in the settings file).")
    data = load_detection_data(args.data, defects=args.defects)
    if data.defects and args.defects == "skip":
        say(f"Left out or clipped: {dict(Counter(defect.kind for defect in data.defects))}")
    rows = data[args.train_split]
    if args.validation_data:
        other = load_detection_data(args.validation_data, label_map=data.label_map, defects=args.defects)
        # A set of its own has often one split only, whatever it is called.
        only = next(iter(other.splits)) if len(other.splits) == 1 else args.validation_split
        validation = other[only]
    elif args.split_every:
        split = split_every(rows, args.split_every)
        rows, validation = split["train"], split["validation"]
    else:
        # Only the default's name may be missing: the data then has no validation split.
        is_default = args.validation_split == DataArguments.validation_split
        validation = data.splits.get(args.validation_split) if is_default else data[args.validation_split]
    sides = zip(rows["width"], rows["height"], strict=True)
    kept = [index for index, sides in enumerate(sides) if min(sides) >= LEAST_SIDE]
    if len(kept) < len(rows):
        say(f"{len(rows) - len(kept)} images with a side below {LEAST_SIDE} pixels are left out of training.")
        rows = rows.select(kept)
    return data, rows, validation


def _write_evaluation(trainer: DetectionTrainer, data: DetectionData, output: Path) -> None:
    from deformable_detr_refine.data.row_image import row_image
    from deformable_detr_refine.evaluation.azure_metrics import azure_metrics
    from deformable_detr_refine.evaluation.coco import coco_metrics
    from deformable_detr_refine.evaluation.report import write_report
    from deformable_detr_refine.evaluation.result_files import write_detections, write_metrics, write_per_class

    names, category_ids, images = data.label_map.names, data.label_map.category_ids, trainer.evaluated
    metrics, by_azure = coco_metrics(images, names), azure_metrics(images, names)
    write_detections(output / "detections.json", images, category_ids)
    write_per_class(output / "per_class.csv", metrics["per_class"], by_azure["per_label_metrics"], category_ids)
    write_metrics(output / "metrics.json", {**metrics, "azure": by_azure})
    rows = trainer.eval_dataset.rows
    index_of = {image_id: index for index, image_id in enumerate(rows["image_id"])}
    write_report(
        images,
        metrics,
        names,
        output,
        image_of=lambda image: row_image(rows[index_of[image.image_id]]),
        title=f"Validation of {output.name}",
        history=trainer.state.log_history,
    )
