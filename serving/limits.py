"""How much one request may ask of a server."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

PREFIX = "DDETR_"


@dataclass(frozen=True)
class Limits:
    """Bounds on one request.

    Args:
        request_bytes: length of a request's body, and of everything together that its URLs bring.
        body_seconds: time for a request's body to arrive.
        images: images in a request.
        pixels: width * height of an image, read from its header before it is decoded.
        url_seconds: time for all URLs of a request, name look-up included.
        url_bytes: length of what one URL brings.
        private_urls: whether URLs may lead to addresses that are not public: the server's own machine, its network,
            its cloud's metadata service.

    Raises:
        ValueError: a bound is not above zero.
    """

    request_bytes: int = 64 * 2**20
    body_seconds: float = 60.0
    images: int = 32
    pixels: int = 50_000_000
    url_seconds: float = 10.0
    url_bytes: int = 20 * 2**20
    private_urls: bool = False

    def __post_init__(self):
        for field in fields(self):
            if field.name != "private_urls" and not getattr(self, field.name) > 0:
                raise ValueError(f"The limit {field.name} is {getattr(self, field.name)}, expected a number above 0.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Limits":
        """Limits set by DDETR_REQUEST_BYTES, DDETR_BODY_SECONDS, DDETR_IMAGES, DDETR_PIXELS, DDETR_URL_SECONDS,
        DDETR_URL_BYTES and DDETR_PRIVATE_URLS (1 or 0).

        Raises:
            ValueError: a value is no number, or not above zero.

        Example:
            >>> Limits.from_environment({"DDETR_IMAGES": "8"}).images
            8
        """
        values = {}
        for field in fields(cls):
            name = PREFIX + field.name.upper()
            if text := environment.get(name, "").strip():
                values[field.name] = _value(name, text, field.type)
        return cls(**values)

    def to_environment(self) -> dict[str, str]:
        """The variables that `from_environment` reads.

        Example:
            >>> Limits.from_environment(Limits(images=3).to_environment()) == Limits(images=3)
            True
        """
        return {PREFIX + field.name.upper(): str(_plain(getattr(self, field.name))) for field in fields(self)}


def _value(name: str, text: str, kind: Any) -> int | float | bool:
    try:
        if kind is bool:
            return {"0": False, "false": False, "1": True, "true": True}[text.lower()]
        return kind(text)
    except (KeyError, ValueError) as error:
        expected = {bool: "0 or 1", int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"{name} is {text!r}, expected {expected}.") from error


def _plain(value: int | float | bool) -> int | float:
    return int(value) if isinstance(value, bool) else value


__all__ = ["Limits"]
