"""Kinds of numbers on the command line, for argparse's `type`, and arguments that verbs share."""

import argparse
from typing import Any

# A parser, or a group of its arguments.
Arguments = argparse._ActionsContainer
# In the help. 0.3 is the THRESHOLD of inference/detections.py, whose import takes seconds; a test holds them equal.
OWN_THRESHOLD = "default: what its training found on validation data, else 0.3"


def fraction(text: str) -> float:
    """A number from 0 to 1.

    Example:
        >>> fraction("0.3")
        0.3
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


def positive_int(text: str) -> int:
    """A whole number from 1 on.

    Example:
        >>> positive_int("8")
        8
    """
    return _whole_number(text, 1)


def non_negative_int(text: str) -> int:
    """A whole number from 0 on.

    Example:
        >>> non_negative_int("0")
        0
    """
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} on")
    return value


def seconds(text: str) -> float:
    """A time from 0 on.

    Example:
        >>> seconds("2.5")
        2.5
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def port(text: str) -> int:
    """A port's number.

    Example:
        >>> port("5001")
        5001
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port, 1 to 65535")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """Height and width of an image.

    Example:
        >>> image_size("800x1333")
        (800, 1333)
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text} is not a size HxW in pixels, as 800x1333")
    return int(height), int(width)


def point(text: str) -> tuple[float, float]:
    """x and y in pixels.

    Example:
        >>> point("320,240.5")
        (320.0, 240.5)
    """
    try:
        x, y = (float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a point X,Y in pixels, as 320,240") from None
    return x, y


def grid(text: str) -> tuple[int, int]:
    """Columns and rows of tiles.

    Example:
        >>> grid("3x2")
        (3, 2)
    """
    from deformable_detr_refine.inference.tiles import grid_of

    try:
        return grid_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None


def add_model(
    parser: Arguments, kinds: str = "a model folder, an exported .onnx file or MLflow folder, or a Hub name"
) -> None:
    """MODEL, which may be left out."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help=f"{kinds} (default: the package's own, of blood cells)"
    )


def add_model_and_size(parser: Arguments) -> None:
    """MODEL, which may be left out, and the size of an image as the model gets it."""
    add_model(parser, "a model folder, or its Hub name")
    parser.add_argument(
        "--size",
        metavar="HxW",
        type=image_size,
        help="of the image as the model gets it (default: what its processor makes of a photo of 800x1333)",
    )


def add_revision(parser: Arguments) -> None:
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit, for a model of the Hub")


def add_device(parser: Arguments, default: str | None = "auto") -> None:
    parser.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:1, mps, ... (default auto)")


def add_batch_size(parser: Arguments, default: int) -> None:
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_int,
        default=default,
        help=f"images of one shape at a time (default {default})",
    )


def add_threshold(parser: Arguments, help: str, default: float | None = None) -> None:
    """Where it is None the model's own is taken (see `Network.threshold`)."""
    parser.add_argument("--threshold", metavar="T", type=fraction, default=default, help=help)


def add_top_k(parser: Arguments) -> None:
    parser.add_argument(
        "--top-k",
        metavar="K",
        type=positive_int,
        help="most boxes an image (default: the model's own number, 100, and in tiles that of each)",
    )


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """What `tiling_of` makes a `Tiling` of, whose defaults count where nothing is given."""
    group = parser.add_argument_group("small objects in large images")
    how = group.add_mutually_exclusive_group()
    how.add_argument("--tiles", metavar="CxR", type=grid, help="cut every image into C columns and R rows of tiles")
    how.add_argument("--tile-size", metavar="N", type=positive_int, help="cut every image into tiles of NxN pixels")
    group.add_argument(
        "--tile-overlap", metavar="S", type=fraction, help="of neighbours, as a share of a tile's side (default 0.25)"
    )
    group.add_argument(
        "--tile-nms",
        metavar="IOU",
        type=fraction,
        help="overlap above which the worse of two boxes of one class is dropped (default 0.5)",
    )
    group.add_argument("--tiles-only", action="store_true", help="do not look at the whole image beside its tiles")


def tiling_of(args: argparse.Namespace) -> Any:
    """The `Tiling` that was asked for, or None.

    Raises:
        ValueError: what is said of tiles makes none.
    """
    given = {"overlap": args.tile_overlap, "nms_threshold": args.tile_nms, "whole": False if args.tiles_only else None}
    given = {name: value for name, value in given.items() if value is not None}
    if args.tiles is None and args.tile_size is None:
        if given:
            raise ValueError("There are no tiles: give --tiles COLUMNSxROWS, or --tile-size PIXELS.")
        return None
    from deformable_detr_refine.inference.tiles import Tiling

    return Tiling(args.tiles, args.tile_size, **given)


def add_json(parser: Arguments, help: str) -> None:
    parser.add_argument("--json", action="store_true", help=help)


def add_force(parser: Arguments) -> None:
    parser.add_argument("--force", action="store_true", help="replace OUT, an earlier output of this command")


def add_port_and_host(parser: Arguments, number: int, help: str) -> None:
    parser.add_argument("--port", metavar="N", type=port, default=number, help=f"{help} (default {number})")
    parser.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="0.0.0.0 for other machines too (default 127.0.0.1)"
    )
