"""Kinds of numbers on the command line, for argparse's `type`."""

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


def at_least_one(text: str) -> int:
    """A whole number from 1 on.

    Example:
        >>> at_least_one("8")
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
