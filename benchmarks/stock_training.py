"""The same training with transformers' own Deformable DETR: data, pixels, backbone weights, optimiser, epochs and seed.

    python benchmarks/stock_training.py BCCD --backbone-weights tf_efficientnet_lite0.safetensors --epochs 8

Both are two-stage with box refinement and of one size; stock has its own loss and its own defaults, which is what a
user of transformers gets. Prints the validation AP after every epoch, and writes OUTPUT/curves.json and curves.svg.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    TimmBackboneConfig,
    get_scheduler,
    set_seed,
)

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)
from deformable_detr_refine.data.augmentation.recipe import training_transform
from deformable_detr_refine.data.examples import Examples, collate
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.samplers import EqualShapeBatches, OrientationSampler
from deformable_detr_refine.evaluation.evaluated_image import evaluated_image
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
from deformable_detr_refine.files import new_path
from deformable_detr_refine.training.optimizer import parameter_groups

OURS, STOCK = "this package", "transformers' own"
BACKBONE = "tf_efficientnet_lite0"
SIZES = {
    "d_model": 192,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "num_queries": 100,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}


def detector(name: str, classes: dict[int, str], weights: Path) -> nn.Module:
    """A detector of either kind, on the same ImageNet weights."""
    labels = {"id2label": classes, "label2id": {label: index for index, label in classes.items()}}
    ours = DeformableDetrRefineForObjectDetection(
        DeformableDetrRefineConfig(backbone=BACKBONE, backbone_frozen_stages=-1, **SIZES, **labels)
    )
    ours.load_backbone_weights(weights)
    if name == OURS:
        return ours
    backbone = {"out_indices": [2, 3, 4], "use_pretrained_backbone": False}
    config = DeformableDetrConfig(
        backbone_config=TimmBackboneConfig(backbone=BACKBONE, **backbone),
        two_stage=True,
        with_box_refine=True,
        **SIZES,
        **labels,
    )
    stock = DeformableDetrForObjectDetection(config)
    loaded = ours.model.backbone.body.state_dict()
    for module in stock.modules():
        own = module.state_dict()
        if own and set(own) <= set(loaded) and "conv_stem.weight" in own:
            module.load_state_dict({key: loaded[key] for key in own})
            return stock
    raise RuntimeError("transformers' detector has no timm backbone of this name any more.")


def evaluate(model: nn.Module, examples: Examples, names: list[str]) -> dict[str, Any]:
    """COCO's metrics; detections of both kinds are read from their logits in the same way."""
    rows = examples.rows.remove_columns("image")
    shapes = [examples.processor.resized_shape(h, w) for h, w in zip(rows["height"], rows["width"], strict=True)]
    loader = DataLoader(examples, batch_sampler=EqualShapeBatches(shapes, 4), collate_fn=collate, num_workers=1)
    images = []
    model.eval()
    for batch, indices in zip(loader, EqualShapeBatches(shapes, 4), strict=True):
        with torch.inference_mode():
            outputs = model(batch["pixel_values"])  # nothing is padded
        sizes = [(rows[i]["height"], rows[i]["width"]) for i in indices]
        results = examples.processor.post_process_object_detection(outputs, 0.0, sizes)
        images += [evaluated_image(result, rows[i]) for result, i in zip(results, indices, strict=True)]
    return coco_metrics(images, names)


def train(name: str, data: Any, args: argparse.Namespace) -> list[dict[str, float]]:
    """Trains one of the two, and gives AP, AP50 and the seconds of training after every epoch."""
    set_seed(0)
    processor = DeformableDetrRefineImageProcessor(
        size={"shortest_edge": args.size, "longest_edge": round(args.size * 5 / 3)}
    )
    augmentation = training_transform("light", args.size, round(args.size * 5 / 3), vertical_flip=True)
    examples, validation = Examples(data["train"], processor, augmentation), Examples(data["validation"], processor)
    sampler = OrientationSampler([True] * len(examples), batch_size=4, seed=0)
    loader = DataLoader(examples, 4, sampler=sampler, collate_fn=collate, num_workers=1)
    model = detector(name, data.label_map.id2label, args.backbone_weights)
    slow = ["backbone", "sampling_offsets", "reference_points"]
    optimizer = torch.optim.AdamW(parameter_groups(model.named_parameters(), 2e-4, 1e-4, slow, 0.5))
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=50, num_training_steps=args.epochs * len(loader))
    curve, seconds = [], 0.0
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        model.train()
        start = time.perf_counter()
        for batch in loader:
            loss = model(**batch).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        seconds += time.perf_counter() - start
        metrics = evaluate(model, validation, list(data.label_map.names))
        curve.append({"epoch": epoch + 1, "AP": metrics["AP"], "AP50": metrics["AP50"], "seconds": seconds})
        print(f"{name:<18} epoch {epoch + 1:3}  AP {metrics['AP']:.4f}  AP50 {metrics['AP50']:.4f}  {seconds:.0f} s")
    return curve


def plot(curves: dict[str, list[dict[str, float]]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot([point["epoch"] for point in curve], [point["AP"] for point in curve], marker="o", label=name)
    axes.set(xlabel="epoch", ylabel="validation AP", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    with new_path(file) as new:
        figure.savefig(new, format="svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="BCCD, or another data set with a validation split")
    parser.add_argument("--backbone-weights", type=Path, required=True, help=f"ImageNet weights of {BACKBONE}, a file")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=192, help="shortest edge (default 192)")
    parser.add_argument("--only", choices=[OURS, STOCK], help="train one of the two, beside what OUTPUT holds already")
    parser.add_argument("--output", type=Path, default=Path("curves"))
    args = parser.parse_args()
    data = load_detection_data(args.data, defects="skip")
    file = args.output / "curves.json"
    curves = json.loads(file.read_text()) if file.is_file() else {}
    for name in (OURS, STOCK) if args.only is None else (args.only,):
        curves[name] = train(name, data, args)
        with new_path(file) as new:
            new.write_text(json.dumps(curves, indent=1) + "\n")
    plot(curves, args.output / "curves.svg")


if __name__ == "__main__":
    main()
