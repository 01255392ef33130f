"""``reground start`` from its first look to its report."""

from __future__ import annotations

import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer

from reground.data.convert.boxes import READERS
from reground.data.convert.parts import ALL, Part, parts
from reground.data.images import split_view
from reground.errors import ConfigError, DataError
from reground.grounding.sample import read_jsonl
from reground.io import locked
from reground.start.files import write_configs, write_questions
from reground.start.plan import Plan
from reground.start.steps import Runner

FEWEST = 20  # photos: of fewer there is little to learn and little to measure on
_KEPT = "steps.json"


def start(
    folder: Path,
    *,
    out: Path,
    model: str,
    images: Path | None,
    seed: int,
    steps: int | None,
    guided: bool,
) -> None:
    """Do everything; ``guided`` stops once, so that the words of the questions can be changed.

    Raises ``DataError`` for a folder of no labelled photos or too few, ``ConfigError`` where
    ``out`` holds something else, and ``RunError`` where a step fails.
    """
    _check_place(out, folder)
    found = _labelled(folder)
    with locked(out / _KEPT):
        plan = Plan(found, folder, out, images, seed)
        runner = Runner(out / _KEPT)
        _say_parts(found, seed)
        runner.run(plan.look())
        photos, classes = _seen([plan.seen(part) for part in found])
        if photos < FEWEST:
            raise DataError(
                f"{folder}: {photos} photos can be asked about; expected {FEWEST} or more, to "
                "learn from some and to measure on others"
            )
        questions, objects = write_questions(out, classes)
        configs = write_configs(out, model, steps)
        if guided:
            _pause(out / "look.png", questions, configs)
        runner.run([*plan.ask(photos, questions, objects), *plan.train(model, configs)])
    report = out / "after" / "report.html"
    typer.echo(
        f"\nThe page: {report}\nNext: reground serve --model {configs[-1].with_suffix('')}, or "
        f"change {questions} or {configs[-1]} and give the same line again"
    )
    if guided:
        webbrowser.open(report.resolve().as_uri())


def _check_place(out: Path, folder: Path) -> None:
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"--out {out}: lies in the folder of photos; name a place outside of it")
    if out.is_dir() and any(out.iterdir()) and not (out / _KEPT).exists():
        raise ConfigError(f"--out {out}: holds other things; name a folder that is not there yet")


def _labelled(folder: Path) -> list[Part]:
    """The parts of a folder of photos with boxes."""
    found = parts(folder)
    kind = found[0].format
    if kind not in READERS or kind == "hub_objects":
        raise DataError(
            f"{folder}: is {kind}, not photos with boxes that have classes; make rows of it by "
            f"`reground data convert {kind}`, then train on them (docs/photos.md)"
        )
    return found


def _say_parts(found: Sequence[Part], seed: int) -> None:
    if found[0].name == ALL:
        typer.echo(
            f"{found[0].source}: {found[0].format}, in no parts: photos are put into train, val "
            f"and test by chance (seed {seed})"
        )
        return
    for part in found:
        typer.echo(f"{part.source}: {part.format}, {part.name}")


def _seen(files: Sequence[Path]) -> tuple[int, list[str]]:
    """How many photos rows are about, and their classes, the most frequent first."""
    photos, classes = set(), Counter[str]()
    for path in files:
        for row in read_jsonl(path):
            photos.add(split_view(row.images[0].path)[0])
            classes[row.strata["class"]] += 1
    return len(photos), [name for name, _ in classes.most_common()]


def _pause(picture: Path, questions: Path, configs: Sequence[Path]) -> None:
    typer.echo(
        f"\nLook at {picture}: is each box where it belongs?\nThe words that are asked: {questions}"
        f"\nThe trainings: {', '.join(map(str, configs))}"
    )
    typer.confirm("Change them now if you like. Go on?", default=True, abort=True)
