"""MIG-Bench, as first published (answers in 0-1) and as revised (integer answers in 0-1000)."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, numbers, plain, read_rows, reading
from reground.data.convert.mentions import asked_image
from reground.errors import DataError
from reground.grounding.boxes import THOUSAND, UNIT, Box, Frame
from reground.grounding.sample import Sample, Target


def convert(
    source: Path, *, images: Path | None = None, allow_missing_images: bool = False
) -> Iterator[Sample]:
    """Samples of a MIG-Bench JSON, in its order; ids count within each task.

    The target image is the one that the question names last, else the one that
    ``additional_info`` names, else the last: answers do not say it. The stratum ``target`` says
    which were "named" and which "assumed" (the task diff, as first published). ``images`` is the
    folder that the rows' paths start from, the JSON's own folder where it is not given.
    """
    rows = read_rows(source, "task", "images", "question", "answer")
    frame = _frame(rows, source)
    found = Images(images or source.parent, allow_missing_images)
    counts: Counter[str] = Counter()
    for row in rows:
        task = str(row["task"])
        name = f"{task}-{counts[task]:04d}"
        with reading(f"{source}: {name}"):
            sample = _sample(row, name, frame, found)
        yield sample
        counts[task] += 1


def _frame(rows: Sequence[dict[str, Any]], source: Path) -> Frame:
    # The two versions differ in their numbers' type, which JSON keeps; their size says nothing.
    with reading(f"{source}: an answer"):
        kinds = {type(value) for row in rows for value in row["answer"]}
    if kinds == {float}:
        return UNIT
    if kinds == {int}:
        return THOUSAND
    raise DataError(
        f"{source}: answers hold {', '.join(sorted(kind.__name__ for kind in kinds))}; expected "
        "decimals throughout (first version, 0-1) or integers throughout (revised, 0-1000)"
    )


def _sample(row: dict[str, Any], name: str, frame: Frame, found: Images) -> Sample:
    refs = found.refs(_paths(row["images"]), where=name)
    question = plain(row["question"])
    asked = asked_image(question, str(row.get("additional_info", "")), len(refs))
    box = Box(*numbers(row["answer"], where=name), frame).to(refs[asked.image].frame)
    return Sample(
        id=name,
        images=refs,
        question=question,
        targets=(Target(asked.image, box),),
        task=str(row["task"]),
        target_image=asked.image,
        strata={"images": str(len(refs)), "target": asked.stratum},
    )


def _paths(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:  # some copies hold the list as the text of a Python list
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return None
