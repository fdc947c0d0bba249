"""The scoring script of Azure's inference server: `azmlinfsrv --entry_script score.py`, or `ddetr serve`.

The server calls `init` once in each of its processes and `run` for every request to /score. Under the worker of
`worker.py` requests come whole; under gunicorn's own, a client that sends slowly holds a thread.
"""

from deformable_detr_refine.serving.azure.schema import RequestError, too_long
from deformable_detr_refine.serving.azure.service import LEFT_EVENT, Service, current_service, refusal

try:
    from azureml_inference_server_http.api.aml_request import rawhttp
    from azureml_inference_server_http.api.aml_response import AMLResponse
except ImportError:  # read without the server, as by a documentation tool

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
    try:
        body = _body(request)
    except RequestError as error:
        status, answer = refusal(error)
    else:
        left = request.environ.get("asgi.scope", {}).get(LEFT_EVENT)
        status, answer = service.answer(body, lambda: left is None or not left.is_set())
    return AMLResponse(answer, status, json_str=True)


def _body(request) -> bytes:
    """The request's body, within the limit.

    Raises:
        RequestError: it is longer.
    """
    limits, length = service.limits, request.content_length
    # From the server itself: Flask's stream takes a chunked body for an empty one.
    body = (
        b""
        if (length or 0) > limits.request_bytes
        else request.environ["wsgi.input"].read(limits.request_bytes + 1 if length is None else length)
    )
    if max(length or 0, len(body)) > limits.request_bytes:
        raise too_long(limits)
    return body
