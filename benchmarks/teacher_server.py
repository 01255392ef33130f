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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

MODEL = "teacher"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SEED = re.compile(rb'"seed": ?(\d+)')
_BOX = re.compile(rb"bounding box is (\(\d+,\d+\),\(\d+,\d+\))")
_SHARES = {"429": 0.10, "500": 0.05, "cut": 0.02, "json": 0.01, None: 0.82}
_LATE_SHARE, _LATE_S = 0.01, (1.0, 3.0)
_CHAIN = (
    "<think>The question asks for one object. I compare what the image shows by colour, size and "
    "place, and only one fits all that is said.</think><answer>{}</answer>"
)


def _http(answer: object, status: int = 200, *, more: str = "", length: int | None = None) -> bytes:
    """A response; ``more`` are lines of its head, ``length`` is one that is not the body's."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


_MODEL = {"id": MODEL, "object": "model", "created": 0, "owned_by": "benchmark"}
_MODELS = _http({"object": "list", "data": [_MODEL]})
_FAULTS: Mapping[str | None, bytes] = {
    "429": _http({"error": {"message": "too fast"}}, 429, more="Retry-After: 0.2\r\n"),
    "500": _http({"error": {"message": "oops"}}, 500),
    "cut": _http(b'{"choices": [', length=900),
    "json": _http(b'{"choices": [{"message": {"content": "<think>'),
}


class Teacher:
    """Answers the requests of all clients; with ``chance``, not all of them well."""

    def __init__(self, log: TextIO | None, chance: random.Random | None) -> None:
        self._log, self._chance = log, chance

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, kept open between requests."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client is gone
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                fault = self._fault() if body else None
                writer.write(await self._answer(body, fault) if body else _MODELS)
                if fault == "cut":
                    writer.close()

    async def _answer(self, body: bytes, fault: str | None) -> bytes:
        seed, box = _SEED.search(body), _BOX.search(body)
        assert seed
        read, written = 500 + int(seed[1]) % 100, 50 + int(seed[1]) % 37
        if self._log:
            billed = [read, written] if fault is None else None
            row = {"seed": int(seed[1]), "at": time.time(), "fault": fault, "tokens": billed}
            self._log.write(json.dumps(row) + "\n")
            self._log.flush()
        if fault:
            return _FAULTS[fault]
        if self._chance and self._chance.random() < _LATE_SHARE:
            await asyncio.sleep(self._chance.uniform(*_LATE_S))
        return _http(_completion(box[1].decode() if box else "none", read, written))

    def _fault(self) -> str | None:
        if self._chance is None:
            return None
        return self._chance.choices(list(_SHARES), list(_SHARES.values()))[0]


def _completion(box: str, read: int, written: int) -> object:
    message = {"role": "assistant", "content": _CHAIN.format(box)}
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": usage,
    }


async def main() -> None:
    """Serve until the process is ended."""
    command_line = argparse.ArgumentParser(description=__doc__)
    command_line.add_argument("--faults", action="store_true")
    command_line.add_argument("--log", type=Path)
    asked = command_line.parse_args()
    log = asked.log.open("a") if asked.log else None
    teacher = Teacher(log, random.Random(0) if asked.faults else None)
    server = await asyncio.start_server(teacher.serve, "127.0.0.1", 0, limit=2**22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
