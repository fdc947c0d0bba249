"""The error a user sees when a checkpoint, or a config beside it, cannot be used."""


class CheckpointError(ValueError):
    """One clear sentence: which file, what is wrong with it, and what to do."""


def shown(text: str, longest: int = 100) -> str:
    """A name out of a foreign file, fit for a message: one line, of bounded length, without terminal escapes.

    >>> shown("conv1.weight"), shown("\\x1b[2J")
    ('conv1.weight', '\\\\x1b[2J')
    """
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= longest else text[: longest - 3] + "..."


__all__ = ["CheckpointError", "shown"]
