"""Listens, and answers until it is told to stop."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import typer
import uvicorn

from reground.api import TOOL_TIMEOUT_S, Grounder
from reground.data.media import MediaHosts
from reground.errors import RunError
from reground.serving.app import make_app
from reground.serving.batching import AnswerThread, ModelThread
from reground.serving.guard import App, Rules
from reground.serving.label_studio import LabelStudio
from reground.serving.remote import RemoteGrounder, RemoteThread
from reground.serving.request_log import RequestLog
from reground.serving.review import ReviewPages
from reground.serving.service import Limits, ServedModel, Service

if TYPE_CHECKING:
    from reground.rollout.tools.runner import ToolRunner

_HEADERS = 16_384  # bytes of a request's headers
_STOP_S = 60  # for what is being answered when it is told to stop


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises ``RunError`` where that cannot be."""
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By its name, asyncio sends at once what is written: else each reply waits 40 ms for an ACK.
    listener = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise RunError(
            f"{host}:{port} cannot be used ({error.strerror or error}); choose another --host or "
            "--port, or port 0 for a free one",
            help="port-in-use",
        ) from None
    return listener


def serve(
    grounders: Mapping[str, Grounder | RemoteGrounder],
    listener: socket.socket,
    *,
    tool: str | None,
    rules: Rules,
    limits: Limits,
    log: RequestLog | None = None,
    media: MediaHosts,
    review: ReviewPages | None = None,
    studio: LabelStudio | None = None,
    open_page: bool = False,
    cores: int | None = None,
) -> None:
    """Let models answer; ``grounders`` are by the names by which requests ask for them."""
    models = [
        ServedModel(name, each, _thread(each, limits.most_waiting, cores))
        for name, each in grounders.items()
    ]
    service = Service(models, limits, tool_of(tool) if tool else None, log, media)
    address = address_of(listener)
    typer.echo(f"{', '.join(grounders)} at {address}/ (Ctrl-C ends it)", err=True)
    if review:
        typer.echo(f"{review.session.path} is reviewed at {address}{review.path}", err=True)
    opens = f"{address}/" if open_page else None
    until_stopped(make_app(service, rules, review, studio), listener, opens=opens)


def tool_of(spec: str) -> ToolRunner:
    """What asks the tool, which is opened once for all questions, one after another.

    Raises as :func:`reground.rollout.tools.opening.open_tool`.
    """
    from reground.rollout.tools.opening import open_tool
    from reground.rollout.tools.runner import ToolRunner

    opened = open_tool(spec, samples=())
    return ToolRunner(opened, timeout_s=TOOL_TIMEOUT_S, batch_size=1)


def address_of(listener: socket.socket) -> str:
    """Where browsers find it, without a slash at the end."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def until_stopped(app: App, listener: socket.socket, *, opens: str | None) -> None:
    """Answer until SIGINT or SIGTERM, and then what was asked by then; ``opens`` is a page."""
    if opens:
        threading.Thread(target=webbrowser.open, args=[opens], daemon=True).start()
    config = uvicorn.Config(
        app,
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


def cores_for_models() -> int:
    """How many cores torch computes with; from here on every other thread has one of them.

    OpenMP keeps threads for each thread that computes in parallel. Where they are more than the
    cores, all sleep between any two operations: a batch of ``tiny`` takes a fifth longer.
    """
    import torch

    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    return cores


def _thread(
    grounder: Grounder | RemoteGrounder, most_waiting: int, cores: int | None
) -> AnswerThread:
    if isinstance(grounder, RemoteGrounder):
        remote = RemoteThread(grounder, most_waiting=most_waiting)
        remote.check()
        return remote

    import torch

    from reground.model.runtime import runtime_of

    return ModelThread(
        grounder,
        batch_tokens=runtime_of(grounder.prompter.checkpoint.model).batch_tokens,
        most_waiting=most_waiting,
        begin=partial(torch.set_num_threads, cores) if cores else None,
    )
