"""What the shipped model ``tiny_cells`` answers about BCCD's test photos, by class.

    python benchmarks/tiny_cells.py BCCD_FOLDER --out docs/results/tiny_cells.json

BCCD_FOLDER is laid out as Pascal VOC; the model saw the photos of its train split alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bccd import CONFIGS, KEPT, SEED
from common import parser, publish

from reground.data.convert import convert
from reground.data.source import save_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question


def main() -> None:
    """Evaluate, with images and without, print one JSON object, and keep it where asked."""
    command_line = parser(__doc__)
    command_line.add_argument("photos", type=Path, help="with JPEGImages and Annotations")
    asked = command_line.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "test.jsonl")
        rows = convert("voc", asked.photos, split="test", questions=CONFIGS / "questions.yaml")
        save_dataset(data, rows)
        for name, blank in (("seen", False), ("blank", True)):
            question = Question(model="tiny_cells", data=str(data), max_tokens=64, blank=blank)
            report = evaluate(Path(folder, name), question)
            result[name] = {
                f"class={kind}": {key: row[key] for key in (*KEPT, "acc@0.5_interval")}
                for kind, row in report["slices"]["class"].items()
            }
    publish(result, out=asked.out, config={"model": "tiny_cells", "split": "test"}, seed=SEED)


if __name__ == "__main__":
    main()
