"""An app on a free port of this machine, for tests and for taking pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from reground.serving.guard import App
from reground.serving.run import address_of, listening


@contextmanager
def running(app: App) -> Iterator[str]:
    """Serve ``app`` in another thread; gives its address."""
    config = uvicorn.Config(app, log_level="warning", http="h11", ws="none")
    server, listener = uvicorn.Server(config), listening("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=[[listener]])
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join()
