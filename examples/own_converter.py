"""Labels in a form of your own become samples: one line a box, `photo;label;x;y;width;height`.

    python examples/own_converter.py

A sample names its images with their sizes, asks a question and holds the true boxes in pixels;
`save_dataset` writes what every verb takes as --data.
"""

import csv
import tempfile
from collections import defaultdict
from pathlib import Path

from PIL import Image

from reground.data.source import read_dataset, save_dataset
from reground.data.validate import validate
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target


def convert(table, photos):
    """The samples of a table: one for each photo and label, with all boxes of that label."""
    boxes = defaultdict(list)
    with table.open(newline="") as lines:
        for photo, label, *numbers in csv.reader(lines, delimiter=";"):
            boxes[photo, label].append([float(number) for number in numbers])
    for (photo, label), found in boxes.items():
        with Image.open(photos / photo) as image:
            ref = ImageRef(str(photos / photo), *image.size)
        targets = tuple(
            Target(0, Box(x, y, x + width, y + height, ref.frame)) for x, y, width, height in found
        )
        question = f"the {label}" if len(found) == 1 else f"every {label}"
        yield Sample(f"{photo}-{label}", (ref,), question, targets, "own", strata={"class": label})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.new("RGB", (64, 48), "white").save(folder / "1.png")
        (folder / "boxes.csv").write_text(
            "1.png;cup;4;5;20;21\n1.png;cup;34;8;16;16\n1.png;lid;5;30;9;9\n"
        )
        save_dataset(folder / "rows.jsonl", convert(folder / "boxes.csv", folder))
        report = validate(folder / "rows.jsonl")
        print(f"{report.num_clean} of {report.num_rows} rows are good")
        for sample in read_dataset(str(folder / "rows.jsonl")):
            print(sample.question, [box.xyxy for box in sample.boxes])
