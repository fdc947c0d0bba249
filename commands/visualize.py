"""`ddetr visualize`: where a detector looks, what it proposes and how it refines boxes, as pictures."""

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .arguments import OWN_THRESHOLD, add_device, add_revision, add_threshold, non_negative_int, point, positive_int
from .default_model import model_and_images
from .images import find_images
from .output import check_results_folder, results_folder

DESCRIPTION = """\
Draws what a detector does with an image. Of the best detections, or of the queries that are named:
  query_N_looks.png       where the query samples the image in every decoder layer, at which level, with what weight
  query_N_refinement.png  its box from the proposal through every decoder layer
and of the whole:
  proposals.png           what the first stage proposes, beside what the decoder makes of it (two-stage detectors)
  token_looks.png         where a token of the encoder samples, at --point (default: the middle of the best detection)
"""
EXAMPLES = """\
examples:
  ddetr visualize detector photo.jpg --output runs/inside
  ddetr visualize detector photo.jpg --output runs/inside --query 4 17
  ddetr visualize detector photo.jpg --output runs/inside --point 320,240 --level 1
"""


# What it writes: pictures by these names.
OWN = ("query_*.png", "token_looks.png", "proposals.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        metavar="[MODEL] IMAGE",
        nargs="+",
        help="a model folder or a Hub name, without which the package's own detector of blood cells is taken; then "
        "one image: a file or a URL",
    )
    parser.add_argument("--output", metavar="DIR", required=True, type=Path, help="where the pictures go")
    parser.add_argument("--top", metavar="N", type=positive_int, default=3, help="of so many detections (default 3)")
    parser.add_argument(
        "--query", metavar="N", type=non_negative_int, nargs="+", help="of these queries instead, from 0 on"
    )
    parser.add_argument("--point", metavar="X,Y", type=point, help="the token's, in pixels of the original image")
    parser.add_argument(
        "--level", metavar="N", type=non_negative_int, default=0, help="the token's; 0 (default) is the finest"
    )
    add_threshold(parser, f"least score, 0..1 ({OWN_THRESHOLD})")
    add_device(parser)
    add_revision(parser)


def run(args: argparse.Namespace) -> int:
    if find_spec("matplotlib") is None:
        raise ValueError('This needs matplotlib: pip install "deformable-detr-refine[train]".')
    source, words = model_and_images(args.words, "visualize")
    check_results_folder(args.output, OWN)
    images = find_images(words)
    if len(images) != 1:
        raise ValueError(f"{len(images)} images are named, and one is drawn at a time: name one.")

    from deformable_detr_refine.evaluation.inside.attention_plot import plot_query, plot_token
    from deformable_detr_refine.evaluation.inside.inside import look_inside
    from deformable_detr_refine.evaluation.inside.refinement_plot import plot_proposals, plot_refinement
    from deformable_detr_refine.inference.load_detector import load_detector
    from deformable_detr_refine.inference.network import Network

    model, processor = load_detector(source, args.device, args.revision)
    (inside,) = look_inside(model, processor, images)
    threshold = Network.of(model, processor).threshold if args.threshold is None else args.threshold
    best = inside.best_queries(threshold)
    queries = args.query or best[: args.top]
    if not queries:
        raise ValueError(
            f"Nothing in {images[0]} has a score above {threshold:g}: lower --threshold or name a --query."
        )
    for query in queries:
        inside.query_samples(query)  # refused before anything is drawn if there is none
    x, y = args.point or _middle(inside, queries[0])
    draw: dict[str, Callable[[], Any]] = {
        f"query_{query}_looks": lambda query=query: plot_query(inside, query) for query in queries
    }
    draw |= {f"query_{query}_refinement": lambda query=query: plot_refinement(inside, query) for query in queries}
    draw["token_looks"] = lambda: plot_token(inside, x, y, args.level)
    if inside.proposals is not None:
        draw["proposals"] = lambda: plot_proposals(inside, threshold)
    pictures = {f"{name}.png": make() for name, make in draw.items()}
    with results_folder(args.output, OWN) as folder:
        for name, picture in pictures.items():
            picture.save(folder / name, format="PNG")
    print(f"Written: {', '.join(str(args.output / name) for name in pictures)}")
    return 0


def _middle(inside: Any, query: int) -> tuple[float, float]:
    """The middle of a query's last box, moved into the image."""
    x0, y0, x1, y1 = inside.layer_boxes[-1, query].tolist()
    width, height = inside.image.size
    return min(max((x0 + x1) / 2, 0), width), min(max((y0 + y1) / 2, 0), height)
