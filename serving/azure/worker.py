"""The process in which Azure's server answers: gunicorn starts it with `--worker-class` and this module's `Worker`.

Azure's application, which is written for threads, is asked by threads of two kinds: those that score, and one for the
health probe and whatever else there is, which never waits for the former.
"""

import os
import signal
from typing import Any

from a2wsgi import WSGIMiddleware  # pyright: ignore[reportMissingImports]
from uvicorn_worker import UvicornWorker  # pyright: ignore[reportMissingImports]

from ..front import Application, DeadlineProtocol, Receive, Scope, Send, WholeRequests
from ..limits import Limits
from .server import DRAIN_SECONDS
from .service import most_at_work

# Requests that fetch images from URLs, or wait for their turn, are no work.
_THREADS_A_REQUEST_AT_WORK = 4
_BACKLOG = 2048
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# What comes before a new process has handlers of its own would go to those of its parent, where nobody looks at it: it
# would end when it is killed.
os.register_at_fork(after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS))


def whole_requests(wsgi: Any) -> Application:
    """Azure's application as an ASGI application that gets whole requests."""
    scoring = WSGIMiddleware(wsgi, workers=_THREADS_A_REQUEST_AT_WORK * most_at_work())
    others = WSGIMiddleware(wsgi, workers=1)

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        application: Any = scoring if scope.get("path") == "/score" else others
        await application(scope, receive, send)

    return WholeRequests(route, Limits.from_environment())


class Worker(UvicornWorker):
    """A process of gunicorn's whose loop reads from the clients."""

    CONFIG_KWARGS = {
        "loop": "asyncio",
        "http": DeadlineProtocol,
        "lifespan": "off",
        "ws": "none",
        "interface": "asgi3",
        "timeout_graceful_shutdown": DRAIN_SECONDS,
        # Connections taken at a time: who took more would keep them from its idle neighbours.
        "backlog": 1,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # gunicorn forks next

    def init_signals(self) -> None:
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def handle_exit(self, sig: int, frame: Any) -> None:
        # Gunicorn's Ctrl-C is SIGQUIT in here, which uvicorn leaves to a flag that it does not look at.
        signal.raise_signal(signal.SIGTERM)

    async def _serve(self) -> None:
        self.wsgi = whole_requests(self.wsgi)
        await super()._serve()

    async def callback_notify(self) -> None:
        await super().callback_notify()
        for sock in self.sockets:
            sock.listen(_BACKLOG)  # which others may wait in all the same


__all__ = ["Worker", "whole_requests"]
