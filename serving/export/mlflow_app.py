"""MLflow's scoring server with Azure's request beside its own: started as `python -m` this module.

`mlflow models serve` answers Azure's `{"input_data": ...}` with 400, and has no place for another form. This is the
same server with one more: POST /invocations and POST /score take `input_data` and answer as the catalogue's card does;
everything else goes to MLflow. In an environment without this package the model's own copy of it does:

    PYTHONPATH=MODEL/code python -m deformable_detr_refine.serving.export.mlflow_app MODEL --port 5001
"""

import argparse
import asyncio
import json
from typing import Any

from deformable_detr_refine.inference.mlflow_model import import_mlflow

from ..azure.schema import RequestError, read_json
from ..azure.service import Service, refusal
from ..limits import Limits


def build_app(model: str) -> Any:
    """The ASGI application for an MLflow model that `export_mlflow` wrote.

    Raises:
        ValueError: mlflow is not installed, or the model is another one.
    """
    mlflow = import_mlflow()
    from mlflow.pyfunc import scoring_server
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from ..front import WholeRequests

    loaded = mlflow.pyfunc.load_model(model)
    detector = getattr(loaded.unwrap_python_model(), "detector", None)
    if detector is None:
        raise ValueError(f"{model} is an MLflow model of another kind; `ddetr export --to mlflow` writes this one.")
    app, service = scoring_server.init(loaded), Service(detector, Limits.from_environment())
    routes = (route for route in app.routes if isinstance(route, Route))
    of_mlflow = next(route.endpoint for route in routes if route.path == "/invocations")

    async def score(request: Any) -> Any:
        status, answer = await asyncio.to_thread(service.answer, await request.body())
        return JSONResponse(answer, status)

    async def by_mlflow(request: Any) -> Any:
        response = await of_mlflow(request)
        if response.status_code < 400 or b"stack_trace" not in response.body:
            return response
        content = json.loads(response.body)  # where the error arose is for the log
        return JSONResponse({name: content[name] for name in content if name != "stack_trace"}, response.status_code)

    async def invocations(request: Any) -> Any:
        if not any(name == b"content-type" for name, _ in request.scope["headers"]):  # MLflow fails without one
            request.scope["headers"] = [*request.scope["headers"], (b"content-type", b"application/json")]
        if "json" not in request.headers.get("content-type", "json"):
            return await by_mlflow(request)
        try:
            content = await asyncio.to_thread(read_json, await request.body(), service.limits)
        except RequestError as error:
            status, answer = refusal(error)
            return JSONResponse(answer, status)
        return await (score if isinstance(content, dict) and "input_data" in content else by_mlflow)(request)

    async def healthy(_: Any) -> Any:
        return JSONResponse("Healthy")

    # First in the list, so that they are asked before MLflow's.
    app.router.routes[:0] = [
        Route("/invocations", invocations, methods=["POST"]),
        Route("/score", score, methods=["POST"]),
        Route("/", healthy),
    ]
    return WholeRequests(app, service.limits)


def main() -> None:
    parser = argparse.ArgumentParser(prog="mlflow_app", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="the folder that `ddetr export --to mlflow` wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5001)
    args = parser.parse_args()
    import uvicorn

    from ..front import DeadlineProtocol

    uvicorn.run(
        build_app(args.model), host=args.host, port=args.port, http=DeadlineProtocol, timeout_graceful_shutdown=90
    )


__all__ = ["build_app"]

if __name__ == "__main__":
    main()
