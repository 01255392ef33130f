"""What was asked and answered, in a file: only where somebody wants it kept."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reground.errors import RunError


class RequestLog:
    """Appends to a JSONL that its owner alone may read. Lines are whole, or not there.

    Where one cannot be written, as on a full disk, it is left out, and stderr says so once until
    one can be written again: answers do not wait for it. Raises ``RunError`` for a file that cannot
    be opened.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK  # no wait for a pipe
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise RunError(
                f"{path}: requests cannot be kept there ({error.strerror}); choose another file "
                "for --log-requests, or leave it out"
            ) from None
        self._path, self._lock, self._fails = path, threading.Lock(), False

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode(errors="replace")
        with self._lock:
            try:
                self._write(line + b"\n")
                self._fails = False
            except OSError as error:
                if not self._fails:
                    print(
                        f"{self._path}: requests are not kept ({error.strerror})", file=sys.stderr
                    )
                self._fails = True

    def _write(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
