"""A loopback server that speaks OpenAI's protocol, answers at once, and misbehaves if asked to.

    python benchmarks/teacher_server.py [--faults] [--log JSONL]

Prints its port. With ``--faults`` chance decides about each request: 10 % get a 429 with
Retry-After, 5 % a 500, 2 % half an answer and a cut connection, 1 % invalid JSON, and of the
others 1 % come late. Every request is a line of the log: its seed, by which a call is known, when
it came, what it got, and the tokens of the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from pathlib import Path
from typing import TextIO

MODEL = "teacher"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SEED = re.compile(rb'"seed": ?(\d+)')
_BOX = re.compile(rb"bounding box is (\(\d+,\d+\),\(\d+,\d+\))")
_SHARES = (("429", 0.10), ("500", 0.05), ("cut", 0.02), ("json", 0.01))
_LATE_SHARE, _LATE_S = 0.01, (1.0, 3.0)
_CHAIN = (
    "<think>The question asks for one object. I compare what the image shows by colour, size and "
    "place, and only one fits all that is said.</think><answer>{}</answer>"
)


class Connection(asyncio.Protocol):
    """One client's connection, kept open between requests."""

    def __init__(self, log: TextIO | None, draw: random.Random | None) -> None:
        self._log, self._draw = log, draw
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer once a request is whole; a client sends its next one behind the answer."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) >= whole:
            body = bytes(self._buffer[end + 4 : whole])
            del self._buffer[:whole]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if not body:
            models = [{"id": MODEL, "object": "model", "created": 0, "owned_by": "benchmark"}]
            self._send({"object": "list", "data": models})
            return
        seed = _SEED.search(body)
        assert seed
        fault = self._fault()
        box = _BOX.search(body)
        read, written = 500 + int(seed[1]) % 100, 50 + int(seed[1]) % 37
        if self._log:
            billed = [read, written] if fault is None else None
            row = {"seed": int(seed[1]), "at": time.time(), "fault": fault, "tokens": billed}
            self._log.write(json.dumps(row) + "\n")
            self._log.flush()
        match fault:
            case "429":
                self._send({"error": {"message": "too fast"}}, 429, "Retry-After: 0.2\r\n")
            case "500":
                self._send({"error": {"message": "oops"}}, 500)
            case "cut":
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                self._transport.write(head + b'Content-Length: 900\r\n\r\n{"choices": [')
                self._transport.close()
            case "json":
                self._send(b'{"choices": [{"message": {"content": "<think>')
            case _:
                reply = _completion(box[1].decode() if box else "none", read, written)
                if self._draw and self._draw.random() < _LATE_SHARE:
                    late = self._draw.uniform(*_LATE_S)
                    asyncio.get_running_loop().call_later(late, self._send, reply)
                else:
                    self._send(reply)

    def _fault(self) -> str | None:
        if self._draw is None:
            return None
        names = [name for name, _ in _SHARES]
        weights = [share for _, share in _SHARES]
        return self._draw.choices([*names, None], [*weights, 1 - sum(weights)])[0]

    def _send(self, answer: object, status: int = 200, more: str = "") -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        if not self._transport.is_closing():
            self._transport.write(head.encode() + body)


def _completion(box: str, read: int, written: int) -> object:
    message = {"role": "assistant", "content": _CHAIN.format(box)}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
    }


async def main() -> None:
    """Serve until the process is ended."""
    command_line = argparse.ArgumentParser(description=__doc__)
    command_line.add_argument("--faults", action="store_true")
    command_line.add_argument("--log", type=Path)
    asked = command_line.parse_args()
    log = asked.log.open("a") if asked.log else None
    draw = random.Random(0) if asked.faults else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(log, draw), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
