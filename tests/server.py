"""A real HTTP server on loopback that answers as a test tells it, by default as OpenAI's API."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass
class Response:
    """What is sent back; ``claimed`` is a Content-Length longer than the body.

    ``endless`` is sent after the body, again and again, ``pause_s`` seconds apart. Status 0 is a
    body without a head.
    """

    body: str | bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    claimed: int | None = None
    endless: bytes = b""
    pause_s: float = 0.0


def says(
    text: str, *, finish: str = "stop", tokens: int = 7, read: int = 1, **more: Any
) -> Response:
    """A whole chat completion; ``read`` tokens were the prompt, ``more`` stands in its choice."""
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text},
    } | more
    usage = {"prompt_tokens": read, "completion_tokens": tokens, "total_tokens": tokens + read}
    return Response(
        json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        )
    )


def question(body: dict[str, Any]) -> str:
    """The text of a request."""
    text: str = body["messages"][0]["content"][-1]["text"]
    return text


def images(body: dict[str, Any]) -> list[Image.Image]:
    """The images of a request."""
    parts = body["messages"][0]["content"][:-1]
    urls = [part["image_url"]["url"] for part in parts]
    return [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) for url in urls]


@contextmanager
def serving(
    respond: Callable[[dict[str, Any], int], Response],
    *,
    models: Response | None = None,
    question: Callable[[dict[str, Any]], str] = question,
    headers: list[dict[str, str]] | None = None,
    port: int = 0,
    only: str = "",
) -> Iterator[tuple[str, list[Any]]]:
    """Serve ``respond(body, how often this question came before)``; the URL, and all bodies.

    ``models`` answers who is served; without it the server does not know that address.
    ``question`` tells what a body asks; the ``headers`` of requests are added to that list.
    ``port`` 0 is any free one. ``only`` is the path of the API, if it has one.
    """
    bodies: list[Any] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == f"{only}/models" if only else True
            self._send(models if models and known else Response("{}", 404))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "null")
            with lock:
                before = sum(question(other) == question(body) for other in bodies)
                bodies.append(body)
                if headers is not None:
                    headers.append(dict(self.headers))
            known = self.path == f"{only}/chat/completions" if only else True
            self._send(respond(body, before) if known else Response("{}", 404))

        def _send(self, response: Response) -> None:
            content = response.body
            content = content.encode() if isinstance(content, str) else content
            if response.status:
                self.send_response(response.status)
            length = response.claimed or (10**12 if response.endless else len(content))
            headers = {"Content-Type": "application/json", "Content-Length": str(length)}
            for name, value in (headers | response.headers).items() if response.status else ():
                self.send_header(name, value)
            if response.status:
                self.end_headers()
            with suppress(ConnectionError):  # of a client that has heard enough
                self.wfile.write(content)
                while response.endless:
                    self.wfile.write(response.endless)
                    time.sleep(response.pause_s)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()
