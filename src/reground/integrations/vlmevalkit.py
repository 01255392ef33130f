"""A data set for VLMEvalKit, and its scores there.

VLMEvalKit knows no plug-ins, so this module starts its run.py with our data set class known to it,
in its clone: ``python -m reground.integrations.vlmevalkit run.py --data reground_mig_bench ...``.
"""

from __future__ import annotations

import csv
import json
import runpy
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reground.data.images import base64_png
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.integrations.exam import Asked, Exam, average, over_tasks
from reground.io import locked, whole

COLUMNS = ("index", "question", "answer", "image", "image_path", "sample", "sizes", "exam")


def write_tsv(out: Path, exam: Exam) -> int:
    """Write the questions of an exam with their images, whole or not at all; returns how many.

    Raises ``DataError`` for an image that cannot be read.
    """
    asked = exam.open()
    with locked(out), whole(out) as partial, partial.open("w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        rows.writeheader()
        for number, each in enumerate(asked):
            shown = [base64_png(image) for image in exam.images(each)]
            # VLMEvalKit keeps images under these names, and never writes one again that is there.
            names = [f"{sha256(image.encode()).hexdigest()[:32]}.png" for image in shown]
            rows.writerow(
                {
                    "index": number,
                    "question": exam.text(each),
                    "answer": json.dumps([box.xyxy for box in each.sample.boxes]),
                    "image": shown[0] if len(shown) == 1 else str(shown),
                    "image_path": names[0] if len(names) == 1 else str(names),
                    "sample": json.dumps(each.sample.to_json()),
                    "sizes": json.dumps([asdict(size) for size in each.sizes]),
                    "exam": exam.to_json(),
                }
            )
    return len(asked)


def scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Acc@0.5, mean IoU and their errors of rows with a ``prediction`` beside our columns."""
    marks = []
    for row in rows:
        sizes = tuple(EncodedSize(**size) for size in json.loads(row["sizes"]))
        asked = Asked(Sample.from_json(json.loads(row["sample"])), sizes)
        marks.append(Exam.from_json(row["exam"]).mark(asked, str(row["prediction"])))
    hit, iou = average(marks, "hit"), average(marks, "iou")
    return {
        "acc@0.5": hit.value,
        "acc@0.5_stderr": hit.stderr,
        "mean_iou": iou.value,
        "mean_iou_stderr": iou.stderr,
        "mean_of_tasks": over_tasks(marks).value,
    }


def dataset_class() -> Any:
    """The class of VLMEvalKit for every ``reground_*.tsv`` in its data folder, LMUData."""
    from vlmeval.dataset.image_base import ImageBaseDataset
    from vlmeval.smp import LMUDataRoot, load

    class GroundingDataset(ImageBaseDataset):
        """Questions of ours; images come before the text."""

        TYPE = "GROUNDING"

        @classmethod
        def supported_datasets(cls) -> list[str]:
            return [path.stem for path in Path(LMUDataRoot()).glob("reground_*.tsv")]

        def evaluate(self, eval_file: str, **_: Any) -> dict[str, float | None]:
            """What the answers in a file of any PRED_FORMAT are worth.

            Our columns are read from the TSV, for a cell of Excel holds 32,767 characters.
            """
            said = type(self.data)(load(eval_file)).set_index("index")["prediction"]
            rows = self.data.assign(prediction=list(said[self.data["index"]]))
            return scores(rows.to_dict("records"))

    return GroundingDataset


def main(line: list[str]) -> None:
    """Start a script of VLMEvalKit, its name first in ``line``, with our class known to it."""
    if not line or find_spec("vlmeval") is None:
        sys.exit(
            "error: found no VLMEvalKit or no script of it; expected, in its clone, "
            "`python -m reground.integrations.vlmevalkit run.py --data NAME --model NAME`"
        )
    import vlmeval.dataset

    vlmeval.dataset.DATASET_CLASSES.insert(0, dataset_class())
    sys.argv = line
    sys.path.insert(0, str(Path(line[0]).resolve().parent))
    runpy.run_path(line[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
