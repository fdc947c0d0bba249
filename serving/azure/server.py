"""Azure's inference server with this package's scoring script, on this machine.

It is the very server that runs in Azure's containers (gunicorn and Flask), started as it starts itself, but on an
address of one's choice, with a worker that reads from the clients for it (`worker.py`), and with the model loaded once:
its processes are forked from the one that holds it and share the memory.
"""

import multiprocessing
import os
import shlex
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deformable_detr_refine.machine import usable_cores

# Time for requests at work when the server is told to end; Azure gives a request 90 seconds.
DRAIN_SECONDS = 90


def check_port(host: str, port: int) -> None:
    """Check, before any work, that a server may listen there.

    Raises:
        OSError: another one does, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise OSError(f"Nothing can listen on {host}, port {port} ({error.strerror or error}): try another.") from error


def serve(
    model: str,
    *,
    host: str,
    port: int,
    workers: int = 1,
    threads: int = 4,
    cores: int | None = None,
    settings: Mapping[str, object] | None = None,
    begins: Callable[[str], Any] = lambda address: None,
) -> None:
    """Serves until a signal: SIGTERM and Ctrl-C let requests at work finish. Does not return.

    The process leaves its current folder, so paths in GUNICORN_CMD_ARGS must be whole.

    Args:
        model: a model folder or one that holds it, an .onnx file, or OWNER/NAME on the Hub.
        host: the address to listen on; 0.0.0.0 for all of this machine's.
        port: answers POST /score and GET /.
        workers: processes.
        threads: requests at work in each; one computes while others are decoded.
        cores: for one forward pass; the machine's, shared among the workers, if None.
        settings: what else `load_service` reads from the environment (DDETR_DEVICE, DDETR_IMAGES, ...), by names
            without DDETR_ and in small letters. They count before the environment's.
        begins: is called with http://HOST:PORT when the model was loaded or tried, before the server's own log begins.

    Raises:
        OSError, ValueError: the model cannot be loaded, nothing can listen there, or the server is not installed.
    """
    model = os.path.abspath(model) if os.path.exists(model) else model
    # Gunicorn executes a gunicorn.conf.py of the current folder and imports from there before anywhere else, and that
    # may be a model's folder, of which nothing is executed. Before the imports, in which gunicorn asks for the folder.
    os.chdir("/")
    try:
        import a2wsgi  # noqa: F401  # pyright: ignore[reportMissingImports]
        import uvicorn_worker  # noqa: F401  # pyright: ignore[reportMissingImports]
        from azureml_inference_server_http import amlserver_linux  # pyright: ignore[reportMissingImports]
        from gunicorn.config import make_settings
    except ImportError as error:
        raise ValueError(
            f"Serving needs azureml-inference-server-http on Linux or macOS, apart from mlflow ({error}): "
            'pip install "deformable-detr-refine[serve]".'
        ) from error
    check_port(host, port)

    from .service import find_model

    os.environ["DDETR_MODEL"] = str(find_model(model)) if Path(model).is_dir() else model
    os.environ["DDETR_CORES"] = str(cores or os.environ.get("DDETR_CORES") or max(usable_cores() // workers, 1))
    for name, value in (settings or {}).items():
        os.environ[f"DDETR_{name.upper()}"] = str(value)
    script = Path(__file__).with_name("score.py")
    os.environ |= {
        # Not the current folder, in which the server would take a model's config.json for its own.
        "AML_APP_ROOT": str(script.parent),
        "AZUREML_ENTRY_SCRIPT": str(script),
        "WORKER_PRELOAD": str(_preload()).lower(),
        "HTTP_X_MS_SERVER_VERSION": f"azmlinfsrv/{version('azureml-inference-server-http')}",
        "DDETR_THREADS": str(threads),
        "GUNICORN_CMD_ARGS": _gunicorn_arguments(set(make_settings())),
    }
    os.environ.setdefault("AML_APP_INSIGHTS_ENABLED", "false")
    # The server would look for versions in it, and complain.
    os.environ.pop("AZUREML_MODEL_DIR", None)
    host = f"[{host}]" if ":" in host else host
    begins(f"http://{host}:{port}")
    amlserver_linux.run(host, port, workers)


def _preload() -> bool:
    """Loads the model here, where a process can be forked with it: on a CPU, by one thread. Elsewhere it is only tried.

    Raises:
        OSError, ValueError: it cannot be loaded.
    """
    from deformable_detr_refine.inference.detector import on_cpu

    from .service import load_service, preload

    model = os.environ["DDETR_MODEL"]
    if Path(model).suffix == ".onnx" or not on_cpu(model, os.environ.get("DDETR_DEVICE") or "auto"):
        # A process that is forked from one with an accelerator in use, or with ONNX Runtime's threads, has neither.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            other.submit(_try_model).result()
        return False
    import torch

    # OpenMP's threads do not survive a fork, and whoever waits for them hangs.
    torch.set_num_threads(1)
    preload(load_service())
    return True


def _try_model() -> None:
    from .service import load_service

    load_service()


def _gunicorn_arguments(known: set[str]) -> str:
    arguments = {
        "--worker-class": "deformable_detr_refine.serving.azure.worker.Worker",
        "--graceful-timeout": DRAIN_SECONDS,
    }
    ours = [str(part) for pair in arguments.items() for part in pair]
    if "control_socket_disable" in known:
        # One for all servers of a user, in their home folder.
        ours.append("--no-control-socket")
    # What the user sets comes last, and so counts.
    return shlex.join([*ours, *shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))])


__all__ = ["check_port", "serve"]
