"""The ``watch`` command: serves the page and its sections to this machine's browsers."""

import os
import socket
from collections.abc import Awaitable, Callable

from trainer.errors import TrainerError
from trainer.watch.config import WatchConfig
from trainer.watch.page import page
from trainer.watch.view import RunView

HOST = "127.0.0.1"
_POLICY = "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
"""What a browser lets the page do: nothing that leaves this machine."""
_SHUTDOWN_S = 2


def run_watch(config: WatchConfig) -> None:
    """Serves the page of a run until Ctrl-C or SIGTERM. Raises TrainerError for what keeps it from starting."""
    try:
        # Imported here: nothing else in the trainer needs a web server.
        import uvicorn
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.requests import Request
        from starlette.responses import HTMLResponse
        from starlette.routing import Route
    except ImportError as error:
        raise TrainerError(
            f"watch serves a page with a library of its own ({error.name} is missing): "
            "pip install 'alexnet-pipeline[trainer,watch]'"
        ) from None
    if not config.run_dir.is_dir():
        raise TrainerError(f"{config.run_dir}: expected a run folder")

    def answer(draw: Callable[[], str]) -> Callable[[Request], Awaitable[HTMLResponse] | HTMLResponse]:
        return lambda request: HTMLResponse(draw(), headers={"content-security-policy": _POLICY})

    with RunView(config) as view, _listener(config.port) as listener:
        routes = [Route("/", answer(lambda: page(config.run_dir, view.sections)))]
        routes += [Route(f"/{section.name}", answer(section.draw)) for section in view.sections]
        # Another site's name that was made to mean this machine is refused.
        middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])]
        server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=routes, middleware=middleware),
                log_level="warning",
                timeout_graceful_shutdown=_SHUTDOWN_S,
            )
        )
        print(f"watching {config.run_dir} at http://{HOST}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        server.run(sockets=[listener])


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise TrainerError(
            f"--port {port}: cannot listen there: {os.strerror(error.errno or 0)}; give another, or 0"
        ) from None
