"""transformers' own models with deformable attention, as they are and with `accelerate_transformers()`, in turns.

    python benchmarks/transformers_models.py                                             # minutes
    python benchmarks/transformers_models.py --work training --only deformable_detr rt_detr

Each is its config's default in full size, with random weights, one image and, where it reads text, a few tokens.
Nothing but the operator differs. Training is forward and backward, of the sum of all outputs. On a busy machine read
the processor time, with OMP_WAIT_POLICY=passive so that threads do not spin. Markdown.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import transformers
from timing import interleaved, shape_of, write_numbers
from torch import Tensor

from deformable_detr_refine import accelerate_transformers

DETECTOR, SEGMENTER = "ForObjectDetection", "ForUniversalSegmentation"
# The classes' prefix and suffix, the default config's backbone, and what the image's sides have to be multiples of.
MODELS = {
    "deformable_detr": ("DeformableDetr", DETECTOR, "ResNet-50", 32),
    "mask2former": ("Mask2Former", SEGMENTER, "Swin-S", 32),
    "oneformer": ("OneFormer", SEGMENTER, "Swin-T", 32),
    "grounding_dino": ("GroundingDino", DETECTOR, "Swin-T", 32),
    "rf_detr": ("RfDetr", DETECTOR, "DINOv2-S", 56),
    "lw_detr": ("LwDetr", DETECTOR, "ViT-T", 64),
    "rt_detr": ("RTDetr", DETECTOR, "ResNet-50vd", 32),
    "pp_doclayout_v3": ("PPDocLayoutV3", DETECTOR, "HGNetV2-L", 32),
}
SETTINGS = {"lw_detr": {"projector_scale_factors": [1.0]}}  # as published; without it the config has no level
TEXTS = {"grounding_dino": ("input_ids", 4), "oneformer": ("task_inputs", 77)}  # the input, and its tokens
WORK = {"inference": "Inference", "training": "Forward and backward in training mode"}
OWN, OURS = "transformers' own", "with the operator"


class Model:
    """One of them, and its two things to do."""

    def __init__(self, name: str, height: int, width: int) -> None:
        prefix, suffix, self.backbone, multiple = MODELS[name]
        torch.manual_seed(0)
        config = getattr(transformers, f"{prefix}Config")(**SETTINGS.get(name, {}))
        self.model = getattr(transformers, prefix + suffix)(config)
        self.size = tuple(round(side / multiple) * multiple for side in (height, width))
        self.inputs = {"pixel_values": torch.randn(1, 3, *self.size)}
        if name in TEXTS:
            text, tokens = TEXTS[name]
            self.inputs[text] = torch.arange(1000, 1000 + tokens).unsqueeze(0)

    def inference(self) -> dict[str, Tensor]:
        self.model.eval()
        with torch.inference_mode():
            return self.model(**self.inputs)

    def training(self) -> None:
        self.model.train().zero_grad()
        outputs = [tensor for tensor in self.model(**self.inputs).values() if isinstance(tensor, Tensor)]
        torch.stack([tensor.sum() for tensor in outputs if tensor.requires_grad]).sum().backward()


def candidates(work: Callable[[], object]) -> tuple[dict[str, Callable[[], None]], dict[str, list[float]]]:
    """`work` as transformers does it and on the operator, and the processor seconds of each of its runs."""
    processor = {OWN: [], OURS: []}

    def run(name: str) -> None:
        with accelerate_transformers() if name == OURS else nullcontext():
            begin = time.process_time()
            work()
            processor[name].append(time.process_time() - begin)

    return {name: partial(run, name) for name in processor}, processor


def faster(own: Sequence[float], ours: Sequence[float]) -> str:
    """By the minima, and by the medians in brackets."""
    return f"{min(own) / min(ours):.2f}x ({statistics.median(own) / statistics.median(ours):.2f}x)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="timed runs of each (default 4)")
    parser.add_argument("--size", default="480x640", help="height x width (default 480x640)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), help="these models (default all)")
    parser.add_argument("--work", choices=WORK, default="inference", help="what is timed (default inference)")
    parser.add_argument("--numbers", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{WORK[args.work]}: {args.threads} threads, fp32, batch 1. Minima, and ratios of the medians in brackets.\n")
    print(f"| | image | {OWN}, s | {OURS}, s | faster | by processor time |\n|---|---|---|---|---|---|")
    numbers = {}
    for name in args.only:
        model = Model(name, *shape_of(args.size))
        able, processor = candidates(getattr(model, args.work))
        own, ours = interleaved(able, args.runs).values()
        own_processor, ours_processor = (times[1:] for times in processor.values())  # the first round fills caches
        numbers[name] = {"seconds": [list(own), list(ours)], "processor": [own_processor, ours_processor]}
        cells = f"{min(own):.3f} | {min(ours):.3f} | {faster(own, ours)} | {faster(own_processor, ours_processor)}"
        print(f"| {name}, {model.backbone} | {'x'.join(map(str, model.size))} | {cells} |", flush=True)
    write_numbers(args.numbers, numbers)


if __name__ == "__main__":
    main()
