"""Listens, and answers until it is told to stop."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import webbrowser
from contextlib import suppress

import typer
import uvicorn

from reground.api import Grounder
from reground.errors import RunError
from reground.serving.app import make_app
from reground.serving.batching import ModelThread
from reground.serving.guard import Rules
from reground.serving.label_studio import LabelStudio
from reground.serving.service import Limits, Service

_HEADERS = 16_384  # bytes of a request's headers
_STOP_S = 60  # for what is being answered when it is told to stop


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises ``RunError`` where that cannot be."""
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(kind, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise RunError(
            f"{host}:{port} cannot be used ({error.strerror or error}); choose another --host or "
            "--port, or port 0 for a free one"
        ) from None
    return listener


def serve(
    grounder: Grounder,
    listener: socket.socket,
    *,
    model: str,
    tool: str | None,
    rules: Rules,
    limits: Limits,
    studio: LabelStudio | None = None,
    open_page: bool = False,
) -> None:
    """Answer until SIGINT or SIGTERM; what was asked by then is answered."""
    from reground.model.runtime import runtime_of  # torch

    budget = runtime_of(grounder.prompter.checkpoint.model).batch_tokens
    thread = ModelThread(grounder, batch_tokens=budget, most_waiting=limits.most_waiting)
    service = Service(grounder, model, thread, limits, tool, grounder.media)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    typer.echo(f"{model} answers at {address} (Ctrl-C ends it)", err=True)
    if open_page:
        threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    config = uvicorn.Config(
        make_app(service, rules, studio),
        log_level="warning",
        http="h11",
        h11_max_incomplete_event_size=_HEADERS,
        timeout_graceful_shutdown=_STOP_S,
        server_header=False,
        ws="none",
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn's comes first, then this
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
