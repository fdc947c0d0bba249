"""Kinds of numbers on the command line, for argparse's `type`, and arguments that verbs share."""

import argparse


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
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
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


def non_negative_int(text: str) -> int:
    """A whole number from 0 on.

    Example:
        >>> non_negative_int("0")
        0
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 on")
    return int(text)


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


def add_model_and_size(parser: argparse.ArgumentParser) -> None:
    """MODEL, which may be left out, and the size of an image as the model gets it."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a model folder, or its Hub name (default: the package's own)"
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        type=image_size,
        help="of the image as the model gets it (default: what its processor makes of a photo of 800x1333)",
    )
