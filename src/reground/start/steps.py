"""Runs commands one after another, and goes on where an earlier time stopped."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from reground.errors import DataError, RunError
from reground.io import delete, parse_json, write_json


@dataclass(frozen=True, slots=True)
class Step:
    """A command without its first word, what it is for, and the one file or folder that it makes.

    It is run again where its line or the content of what it ``reads`` is another, and after a step
    that was. One that was stopped begins anew; or, where ``makes`` holds something like ``mark``,
    it goes on, by the line with ``resumes`` added.
    """

    purpose: str
    command: tuple[str, ...]
    makes: Path
    reads: tuple[Path, ...] = ()
    mark: str = ""
    resumes: tuple[str, ...] = ()
    says: Path | None = None  # where its output goes, if it is long

    def said(self, command: Sequence[str]) -> str:
        """What a person would type."""
        line = shlex.join(("reground", *command))
        return line if self.says is None else f"{line} > {shlex.quote(str(self.says))}"


class Runner:
    """Runs steps in order; what is done is kept in a file."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._known: dict[str, dict[str, Any]] = {}
        with suppress(FileNotFoundError, DataError):  # nothing, or nothing that can be read
            self._known = parse_json(kept.read_bytes())
        self._before = ""  # the key of the step before: a chain

    def run(self, steps: Sequence[Step]) -> None:
        """Run what is not done. Raises ``RunError`` where a command fails."""
        for step in steps:
            self._before = key = _key(self._before, step)
            known = self._known.get(str(step.makes), {})
            same = known.get("key") == key and step.makes.exists()
            if same and known["done"]:
                typer.echo(f"\n{step.purpose}: done before")
                continue
            if same and step.mark and any(step.makes.glob(step.mark)):
                self._run(step, key, [*step.command, *step.resumes])
            else:
                delete(step.makes)
                self._run(step, key, step.command)

    def _run(self, step: Step, key: str, command: Sequence[str]) -> None:
        self._keep(step, {"key": key, "done": False})
        line = step.said(command)
        typer.echo(f"\n{step.purpose}\n$ {line}")
        begin = time.monotonic()
        with step.says.open("wb") if step.says else nullcontext() as output:
            done = subprocess.run([sys.executable, "-m", "reground", *command], stdout=output)
        if status := done.returncode:
            raise RunError(
                f"stopped: `{line}` ended with code {status}; mend what it says, then give "
                "the same `reground start` again: it goes on there"
            )
        seconds = round(time.monotonic() - begin)
        self._keep(step, {"key": key, "done": True, "line": line, "seconds": seconds})

    def _keep(self, step: Step, state: dict[str, Any]) -> None:
        self._known[str(step.makes)] = state
        write_json(self._kept, self._known)


def _key(before: str, step: Step) -> str:
    content = [_content(path) for path in step.reads]
    return hashlib.sha256(json.dumps([before, step.command, content]).encode()).hexdigest()


def _content(path: Path) -> Any:
    """The bytes of a file; of a folder the names, sizes and times of what it holds."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    found = [(each, each.stat()) for each in sorted(path.rglob("*")) if each.is_file()]
    return [(str(each), stat.st_size, stat.st_mtime_ns) for each, stat in found]
