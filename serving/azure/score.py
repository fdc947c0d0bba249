"""The scoring script of Azure's inference server: `azmlinfsrv --entry_script score.py`, or `ddetr serve`.

The server calls `init` once in each of its processes and `run` for every request to /score.
"""

import select
import time

from deformable_detr_refine.serving.azure.schema import RequestError, too_long
from deformable_detr_refine.serving.azure.service import CLIENT_LEFT, Service, current_service, refusal

try:
    from azureml_inference_server_http.api.aml_request import rawhttp
    from azureml_inference_server_http.api.aml_response import AMLResponse
except ImportError:  # read without the server, as by a documentation tool

    def rawhttp(function):
        return function


# A client that sends or reads nothing for the first, or has not sent all after the second, makes room for others.
SILENCE_SECONDS = 30.0
BODY_SECONDS = 120.0
_PART = 1 << 16

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
    except OSError:  # the connection is gone, so this is for the log only
        status, answer = CLIENT_LEFT, {"message": "The client went away."}
    else:
        status, answer = service.answer(body, lambda: _waits(request))
    return AMLResponse(answer, status, json_str=True)


def _body(request) -> bytes:
    """The request's body, read within the limits on size and time.

    Raises:
        RequestError: it is beyond one.
        OSError: the client left.
    """
    limits, body, length = service.limits, bytearray(), request.content_length
    if length is not None and length > limits.request_bytes:
        raise too_long(limits)
    if (connection := request.environ.get("gunicorn.socket")) is not None:
        connection.settimeout(SILENCE_SECONDS)
    deadline = time.monotonic() + BODY_SECONDS
    try:
        # From the server itself: Flask's stream takes a chunked body for an empty one.
        stream = request.environ["wsgi.input"]
        while part := stream.read(_PART if length is None else min(_PART, length - len(body))):
            body += part
            if len(body) > limits.request_bytes:
                raise too_long(limits)
            if time.monotonic() > deadline:
                raise TimeoutError
            if length == len(body):
                break
    except TimeoutError as error:
        raise RequestError("The request did not arrive in time.", 408) from error
    if length is not None and len(body) < length:
        raise ConnectionError("the client left")
    return bytes(body)


def _waits(request) -> bool:
    """Whether the client is still there."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None or not hasattr(select, "POLLRDHUP"):
        return True
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return not poll.poll(0)
