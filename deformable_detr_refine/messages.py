"""Foreign text in messages and in Markdown."""


def printable(text: str, longest: int = 100) -> str:
    """Text out of a foreign file, fit for a message: one line, of bounded length, without terminal escapes.

    Example:
        >>> printable("conv1.weight"), printable("\\x1b[2J")
        ('conv1.weight', '\\\\x1b[2J')
    """
    text = text[: longest + 1]
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= longest else text[: longest - 3] + "..."


def plain(text: str) -> str:
    """Text of a foreign file, unable to become markup."""
    return printable(text.replace("`", "'").replace("<", "(").replace(">", ")"), 200)


__all__ = ["plain", "printable"]
