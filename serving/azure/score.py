"""The scoring script of Azure's inference server: `azmlinfsrv --entry_script score.py`, or `ddetr serve`.

The server calls `init` once in each of its processes and `run` for every request to /score. Under the worker of
`worker.py` requests come whole; under gunicorn's own, a client that sends slowly holds a thread.
"""

from typing import Any

from deformable_detr_refine.serving.azure.schema import RequestError, too_long
from deformable_detr_refine.serving.azure.service import LEFT_EVENT, Service, current_service, refusal
from deformable_detr_refine.serving.limits import Limits

try:
    from azureml_inference_server_http.api.aml_request import rawhttp  # pyright: ignore[reportMissingImports]
    from azureml_inference_server_http.api.aml_response import AMLResponse  # pyright: ignore[reportMissingImports]
except ImportError:  # read without the server, as by a documentation tool
    AMLResponse: Any = None

    def rawhttp(function):
        return function


service: Service | None = None


def init() -> None:
    """Loads the model."""
    global service
    service = current_service()


@rawhttp  # without it the server reads the body first, and answers what is no text with its own words
def run(request):
    """Answers one request.

    Args:
        request: Flask's.

    Returns:
        The server's response, JSON in every case.
    """
    if request.method == "OPTIONS":
        return AMLResponse("", 200)
    if request.method != "POST":
        return AMLResponse({"message": "Detections are asked for with POST."}, 405, {"Allow": "POST"}, json_str=True)
    assert service is not None, "the server calls `init` before"
    try:
        body = _body(request, service.limits)
    except RequestError as error:
        status, answer = refusal(error)
    else:
        left = request.environ.get("asgi.scope", {}).get(LEFT_EVENT)
        status, answer = service.answer(body, lambda: left is None or not left.is_set())
    return AMLResponse(answer, status, json_str=True)


def _body(request, limits: Limits) -> bytes:
    """The request's body, within the limit.

    Raises:
        RequestError: it is longer.
    """
    length = request.content_length
    # From the server itself: Flask's stream takes a chunked body for an empty one.
    body = (
        b""
        if (length or 0) > limits.request_bytes
        else request.environ["wsgi.input"].read(limits.request_bytes + 1 if length is None else length)
    )
    if max(length or 0, len(body)) > limits.request_bytes:
        raise too_long(limits)
    return body
