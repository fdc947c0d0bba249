"""Azure ML's request and response, as the model catalogue's card has them.

Request: `{"input_data": {"columns": ["image"], "index": [0, 1], "data": [IMAGE, IMAGE]}}`; an image is base64, with
newlines or without, or a URL; `data` may also hold each image in a list of its own. Beside `input_data` may stand
`"params": {"threshold": 0.3, "top_k": 50}`. MLflow's `dataframe_split` and `dataframe_records` mean the same.
Response: a list, one entry per image and in order: `{"boxes": [{"box": {"topX", "topY", "bottomX", "bottomY"}, "label",
"score"}]}`, corners in 0..1 of the original image; where an image failed, `{"boxes": [], "error": "..."}`.
"""

import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deformable_detr_refine.inference.detector import DetectionFailure, Result

from ..limits import Limits
from ..safe_urls import UrlError, fetch_all

COLUMN = "image"
MOST_TOP_K = 1000
# Lists, objects, entries and pairs of a body; a request of 32 images has some hundred.
MOST_ELEMENTS = 10_000
_FORMS = ("input_data", "dataframe_split", "dataframe_records")
_BLANKS = b" \t\r\n"
_FROM_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")


class RequestError(ValueError):
    """A request that cannot be answered, with one sentence for its sender.

    Args:
        text: the sentence.
        status: of the HTTP answer.
    """

    def __init__(self, text: str, status: int = 400):
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Request:
    """What is asked: each image as it came, base64 or a URL, and the parameters of the detection."""

    images: tuple[str, ...]
    threshold: float = 0.0
    top_k: int | None = None


def parse_request(body: bytes | str | Mapping[str, Any], limits: Limits) -> Request:
    """Reads a request without decoding its images.

    Args:
        body: JSON, or what it stands for.
        limits: on bytes and images.

    Raises:
        RequestError: it is no JSON, not of the schema above, or beyond a limit.

    Example:
        >>> body = '{"input_data": {"columns": ["image"], "index": [0], "data": [["https://example.org/a.jpg"]]}}'
        >>> parse_request(body, Limits()).images
        ('https://example.org/a.jpg',)
    """
    if isinstance(body, bytes | str):
        body = read_json(body, limits)
    if not isinstance(body, Mapping):
        raise RequestError(f"The body is a JSON {_kind(body)}, expected an object with input_data.")
    form = next((name for name in _FORMS if name in body), None)
    if form is None:
        raise RequestError(f"The body has no input_data{_instead(body)}.")
    images = _from_records(body[form]) if form == "dataframe_records" else _from_split(body[form], form)
    if not images:
        raise RequestError(f"{form} holds no images.")
    if len(images) > limits.images:
        raise RequestError(f"The request has {len(images)} images, the limit is {limits.images}.", 413)
    return Request(tuple(images), *_parameters(body.get("params")))


def read_images(images: Sequence[str | bytes], limits: Limits) -> list[bytes | DetectionFailure]:
    """The bytes of image files: base64 is decoded, URLs are fetched together; an image that fails has its reason.

    Args:
        images: base64 (also with newlines, a data URI's beginning, or of the URL alphabet), URLs, or bytes as they are.
    """
    read = [image if isinstance(image, bytes) else _decode(image) for image in images]
    fetched = iter(fetch_all([image for image in read if isinstance(image, str)], limits))
    contents = [next(fetched) if isinstance(image, str) else image for image in read]
    return [DetectionFailure(str(image)) if isinstance(image, UrlError) else image for image in contents]


def respond(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The response for detections and failures, in their order."""
    return [result.to_azure() for result in results]


def read_json(body: bytes | str, limits: Limits) -> Any:
    """What a body stands for.

    Raises:
        RequestError: it is no JSON, or beyond a limit.
    """
    if len(body) > limits.request_bytes:
        raise too_long(limits)
    if not body.strip():
        raise RequestError("The body is empty, expected a JSON object with input_data.")
    # Before it is parsed, which would take seconds and gigabytes, and stop everything else in the process.
    elements = sum(map(body.count, "[{,:") if isinstance(body, str) else map(body.count, (b"[", b"{", b",", b":")))
    if elements > MOST_ELEMENTS:
        raise RequestError(f"The body has {elements} elements, the limit is {MOST_ELEMENTS}.", 413)
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        raise RequestError(f"The body is no JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from error
    except UnicodeDecodeError as error:
        raise RequestError("The body is no JSON: it is not UTF-8.") from error
    except RecursionError as error:
        raise RequestError("The body is no request: it is nested too deep.") from error
    except ValueError as error:
        raise RequestError("The body is no request: it holds a number that is too long.") from error


def too_long(limits: Limits) -> RequestError:
    """The error for a body above the limit."""
    return RequestError(f"The request is longer than {limits.request_bytes / 2**20:.3g} MiB, the limit.", 413)


def _from_split(split: Any, form: str) -> list[str]:
    if isinstance(split, list):
        split = {"data": split}
    if not isinstance(split, Mapping):
        raise RequestError(f"{form} is a JSON {_kind(split)}, expected an object with columns, index and data.")
    columns = split.get("columns", [COLUMN])
    if columns != [COLUMN]:
        raise RequestError(f"{form} has the columns {_shown(columns)}, expected {_shown([COLUMN])}.")
    if "data" not in split:
        raise RequestError(f"{form} has no data{_instead(split)}.")
    data = split["data"]
    if not isinstance(data, list):
        raise RequestError(f"data is a JSON {_kind(data)}, expected a list of images.")
    index = split.get("index")
    if index is not None and (not isinstance(index, list) or len(index) != len(data)):
        raise RequestError(f"index and data do not fit together: data has {len(data)} images.")
    return [_image(row[0] if isinstance(row, list) and len(row) == 1 else row, i) for i, row in enumerate(data)]


def _from_records(records: Any) -> list[str]:
    if not isinstance(records, list):
        raise RequestError(f"dataframe_records is a JSON {_kind(records)}, expected a list of objects.")
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or list(record) != [COLUMN]:
            raise RequestError(f'Record {i} is {_shown(record)}, expected {{"{COLUMN}": "..."}}.')
    return [_image(record[COLUMN], i) for i, record in enumerate(records)]


def _image(value: Any, index: int) -> str:
    if not isinstance(value, str):
        raise RequestError(f"Image {index} is a JSON {_kind(value)}, expected a string with base64 or a URL.")
    return value


def _parameters(params: Any) -> tuple[float, int | None]:
    if params is None:
        return 0.0, None
    unknown = sorted(set(params) - {"threshold", "top_k"}) if isinstance(params, Mapping) else []
    if unknown or not isinstance(params, Mapping):
        what = f"with {_shown(unknown[0])}" if unknown else _shown(params)
        raise RequestError(f"params is {what}, expected an object with threshold and top_k.")
    threshold, top_k = params.get("threshold"), params.get("top_k")
    threshold = 0.0 if threshold is None else threshold
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise RequestError(f"threshold is {_shown(threshold)}, expected a number from 0 to 1.")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= MOST_TOP_K):
        raise RequestError(f"top_k is {_shown(top_k)}, expected a whole number from 1 to {MOST_TOP_K}.")
    return float(threshold), top_k


def _decode(text: str) -> bytes | str | DetectionFailure:
    """Base64's bytes, or the URL."""
    start = text[:40].lstrip().lower()
    if "://" in start:
        return text.strip()
    if start.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            return DetectionFailure("The image is a data URI without base64.")
    try:
        packed = text.encode("ascii").translate(_FROM_URL_ALPHABET, _BLANKS).rstrip(b"=")
        content = binascii.a2b_base64(packed + b"=" * (-len(packed) % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        return DetectionFailure("The image is neither base64 nor an http or https URL.")
    return content or DetectionFailure("The image is an empty string.")


def _instead(given: Mapping[str, Any]) -> str:
    names = sorted(map(str, given))
    return f", only {_shown(names)}" if names else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


__all__ = ["Request", "RequestError", "parse_request", "read_images", "read_json", "respond"]
