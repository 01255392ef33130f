"""A run's folder, and the few ways in which files reach it.

``config.yaml`` is the resolved configuration. ``metrics.jsonl`` holds figures that are the same in
every repetition, byte for byte; wall-clock figures go to ``timings.jsonl``, what the policy wrote
to ``rollouts.jsonl``, signs that something is wrong to ``warnings.jsonl``; ``made.json`` names
family, protocols and prompts, and commit, versions, device and dtype. Rows carry their ``step``, so
that a resumed run can drop what lies after its checkpoint. ``checkpoints/`` belongs to the trainer.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reground.errors import RunError, UserError
from reground.io import append_jsonl, delete, write_text

MARKER = ".reground-run"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_IN_WORDS = tuple(f"(os error {number})" for number in _FULL)  # as libraries in Rust say it


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder of one run; :func:`start` makes or reopens it."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Figures that every repetition of the run gives again."""
        return self.path / "metrics.jsonl"

    @property
    def timings(self) -> Path:
        """Seconds, tokens per second, memory: what differs from run to run."""
        return self.path / "timings.jsonl"

    @property
    def rollouts(self) -> Path:
        """What the policy wrote, with its scores."""
        return self.path / "rollouts.jsonl"

    @property
    def warnings(self) -> Path:
        """What the run says of itself: signs that it learns the wrong thing, or nothing."""
        return self.path / "warnings.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def truncate_after(self, step: int) -> None:
        """Drop every logged row after ``step``, and a last row that a killed run left unfinished.

        What stays is untouched, so that a resumed run's files equal an undisturbed run's.
        """
        for path in (self.metrics, self.timings, self.rollouts, self.warnings):
            if path.exists():
                _truncate(path, step)


def start(
    folder: Path,
    config_text: str,
    *,
    resume: bool = False,
    clean: bool = False,
    changeable: Sequence[str] = (),
) -> RunDir:
    """Make the folder of a new run, or reopen it.

    ``resume`` goes on with the run in ``folder``, which must have the same configuration but for
    the ``changeable`` keys and those below them: what changes is added to ``resumed.jsonl``.
    ``clean`` deletes a run in ``folder`` first, and nothing but a run. Raises ``RunError`` where
    the folder does not allow what was asked.
    """
    if resume and clean:
        raise RunError("--resume and --clean exclude each other; give one of them")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise RunError(
            f"{folder}: found a file or a link, expected a folder or nothing; move it",
            help="a-folder-that-is-taken",
        )
    run = RunDir(folder)
    if resume:
        if changes := _checked_changes(run, config_text, changeable):
            append_jsonl(folder / "resumed.jsonl", {"changed": changes})
            write_text(run.config, config_text)
        return run
    if clean and folder.exists():
        _delete(folder)
    if folder.exists() and any(folder.iterdir()):
        raise RunError(_occupied(folder), help="a-folder-that-is-taken")
    run.checkpoints.mkdir(parents=True)
    write_text(folder / MARKER, "This folder belongs to a ReGround run; --clean may delete it.\n")
    write_text(run.config, config_text)
    return run


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Raises ``RunError`` where what is written, as a rule below ``folder``, finds a full disk."""
    try:
        yield
    except UserError:  # has its sentence
        raise
    except Exception as error:
        full = next((each for each in _chain(error) if _is_full(each)), None)
        if full is None:
            raise
        where = Path(str(getattr(full, "filename", None) or folder))
        raise RunError(
            f"{where}: no space is left on its disk ({_free_mib(where):.0f} MiB are free now), or "
            "its quota is used up; make room, then give the same command with --resume: what was "
            "saved before is whole",
            help="no-space-left",
        ) from error


def _checked_changes(run: RunDir, config_text: str, changeable: Sequence[str]) -> list[str]:
    """What the new configuration changes; raises ``RunError`` where a run cannot go on with it."""
    from reground.config import differing_keys  # pydantic and yaml: only a resume needs them

    if not (run.path / MARKER).is_file() or not run.config.is_file():
        raise RunError(
            f"{run.path}: found no run to resume; start it without --resume",
            help="resumed-otherwise",
        )
    changes = differing_keys(run.config.read_text(encoding="utf-8"), config_text)
    free = tuple(f"{key}{end}" for key in changeable for end in (":", "."))
    if wrong := [change for change in changes if not change.startswith(free)]:
        raise RunError(
            f"{run.path}: cannot resume with another configuration ({'; '.join(wrong)}); "
            "resume with the old values, or choose another --out",
            help="resumed-otherwise",
        )
    return changes


def _delete(folder: Path) -> None:
    """Delete a run. The marker goes last: after an interruption it is still known as a run."""
    if not any(folder.iterdir()):
        return
    if not (folder / MARKER).is_file():
        raise RunError(
            f"{folder}: --clean deletes runs only, and this folder carries no {MARKER}; "
            "choose another --out, or delete the folder yourself"
        )
    for entry in folder.iterdir():
        if entry.name != MARKER:
            delete(entry)
    (folder / MARKER).unlink()


def _occupied(folder: Path) -> str:
    if (folder / MARKER).is_file():
        return (
            f"{folder}: already holds a run; give --resume to go on with it, --clean to delete it "
            "and start anew, or another --out"
        )
    return f"{folder}: holds files that are no run, expected an empty folder; choose another --out"


def _truncate(path: Path, step: int) -> None:
    end = 0
    with path.open("rb+") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or _step(path, number, line) > step:
                break
            end += len(line)
        file.truncate(end)
        os.fsync(file.fileno())


def _step(path: Path, number: int, line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{path}:{number}: found a row without a step, expected one JSON object per line with "
            '"step"; mend the row or start anew with --clean'
        ) from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it replaced: torch tells of a full disk in its own words."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return str(error).endswith(_FULL_IN_WORDS)


def _free_mib(path: Path) -> float:
    path = path.absolute()
    existing = next(each for each in (path, *path.parents) if each.exists())
    return shutil.disk_usage(existing).free / 2**20
