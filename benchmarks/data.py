"""What data cost at scale: converting, opening, validating, and scoring with the report.

    python benchmarks/data.py --old WORKTREE --out docs/results/data.json

Rows are generated in the form of MGrounding-630k: two to six images, mostly one question, no photo
on disk. Every command runs in a process of its own, of this checkout and of WORKTREE's in turns;
seconds are of its cores, for other programs may run, those of its workers too, and memory is above
that of a process that only imports; ``worker_mib`` is all that the largest worker holds, most of
which it shares with that process. Photos are for validating alone, whose seconds are on the clock.
``--growth`` is of this checkout.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, publish, spread
from PIL import Image

HERE = Path(__file__).parents[1]
TASKS = ("diff", "object_tracking", "multi_view", "region", "refer_grounding", "group_grounding")
WORDS = "the red small cup dog person left right of wooden table bicycle black car behind window"
# Run in a process of the checkout that is measured: what is done, then what it cost.
MEASURED = """
import json, resource, sys, time
def peak(): return int(next(l for l in open("/proc/self/status") if "VmHWM" in l).split()[1]) / 1024
from reground.cli import main
from reground.data.source import open_dataset
from reground.evaluation.scoring import score
idle, cpu, wall = peak(), time.process_time(), time.perf_counter()
what, *given = sys.argv[1:]
if what == "open":
    opened = open_dataset(*given)
else:
    sys.argv[1:] = given
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended
found = {"wall_s": time.perf_counter() - wall}
workers = resource.getrusage(resource.RUSAGE_CHILDREN)
found["s"] = time.process_time() - cpu + workers.ru_utime + workers.ru_stime
found["worker_mib"] = workers.ru_maxrss / 1024
print("\\n" + json.dumps(found | {"mib": peak() - idle}))
"""
# Answers of a model: true boxes, moved by chance; and its run.json.
ANSWERS = """
import random, sys
from itertools import islice
from pathlib import Path
from reground.evaluation.records import EncodedSize, Prediction, RunInfo, write_predictions
from reground.grounding.sample import digest, read_jsonl
data, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def answers():
    draw = random.Random(0)
    for row in islice(read_jsonl(data), count):
        edges = row.targets[0].box.xyxy
        moved = [max(0, min(1000, round(edge + draw.gauss(0, 40)))) for edge in edges]
        text = "<|box_start|>({},{}),({},{})<|box_end|>".format(*moved)
        sizes = tuple(EncodedSize(each.width, each.height, 1008, 1008) for each in row.images)
        yield Prediction(row, text if draw.random() > 0.03 else "I see none.", sizes, 24, "stop")
known = {"model": "m", "family": "qwen2_vl", "protocol": "direct", "protocol_by": "family",
         "prompt": "qwen2_vl", "prompt_sha256": "0", "reground_version": "0", "data": str(data),
         "data_sha256": digest(islice(read_jsonl(data), count)), "num_samples": count, "seed": 0,
         "limit": count, "temperature": 0.0, "max_new_tokens": 64}
run = RunInfo(**{name: known[name] for name in known if name in RunInfo.__dataclass_fields__})
write_predictions(out, answers(), run=run)
"""


def main() -> None:
    """Measure both checkouts in turns, then how this one grows."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--old", type=Path, metavar="WORKTREE", required=True)
    command_line.add_argument("--rows", type=int, default=200_000)
    command_line.add_argument("--answers", type=int, default=100_000)
    command_line.add_argument("--photos", type=int, default=400)
    command_line.add_argument("--growth", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    asked = command_line.parse_args()
    sys.argv = ["WORKTREE" if each == str(asked.old) else each for each in sys.argv]
    sides = {"old": asked.old.resolve(), "new": HERE}
    with tempfile.TemporaryDirectory() as folder:
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for turn in range(asked.repeats):
            for name, checkout in sides.items():
                place = Path(folder, f"{name}-{turn}")
                turns[name].append(
                    measured(checkout, place, asked.rows, asked.answers, asked.photos)
                )
        points = [
            {"rows": rows} | measured(HERE, Path(folder, f"growth-{rows}"), rows, rows // 2, 0)
            for rows in asked.growth
        ]
    config = {name: getattr(asked, name) for name in ("rows", "answers", "photos", "repeats")}
    config["old"] = _commit(sides["old"])
    figures = {name: _summary(own) for name, own in turns.items()}
    publish({"data": figures, "growth": points}, out=asked.out, config=config)


def measured(
    checkout: Path, folder: Path, rows: int, answers: int, photos: int
) -> dict[str, dict[str, float]]:
    """Seconds and MiB of each command of a checkout; files are made in ``folder``."""
    folder.mkdir()
    source, data, predicted = folder / "rows.json", folder / "rows.jsonl", folder / "predicted"
    _write(source, rows)
    convert = ["data", "convert", "mgrounding", str(source), "--allow-missing-images"]
    found = {"convert": _run(checkout, folder, "cli", *convert, "--out", str(data))}
    found["first open"] = _run(checkout, folder, "open", str(data))
    found["open"] = _run(checkout, folder, "open", str(data))
    _python(checkout, folder, ANSWERS, str(data), str(predicted), str(answers))
    out = str(folder / "scored")
    found["score"] = _run(checkout, folder, "cli", "score", str(predicted), "--out", out)
    found["pages"] = _run(checkout, folder, "cli", "report", out)
    if photos:
        _write_photos(folder, photos)
        found["validate"] = _run(
            checkout, folder, "cli", "data", "validate", str(folder / "photos.jsonl")
        )
    return found


def _run(checkout: Path, folder: Path, *given: str) -> dict[str, float]:
    said = _python(checkout, folder, MEASURED, *given)
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return {name: round(value, 3) for name, value in found.items()}


def _python(checkout: Path, folder: Path, code: str, *given: str) -> str:
    env = os.environ | {
        "PYTHONPATH": str(checkout / "src"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    line = [sys.executable, "-c", code, *given]
    done = subprocess.run(line, env=env, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return done.stdout


def _write(path: Path, count: int) -> None:
    """A list of rows in MGrounding's form, written one after another: this process stays small."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(
            ("," if number else "[") + json.dumps(row) for number, row in enumerate(_rows(count))
        )
        out.write("]")


def _rows(count: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    words = WORDS.split()
    for number in range(count):
        places = draw.choice((2, 2, 2, 3, 4, 6))
        phrase = " ".join(draw.choices(words, k=draw.randrange(3, 12)))
        image = draw.choice(("first", "second", "last"))
        asked = f"Find <|object_ref_start|>{phrase}<|object_ref_end|> in the {image} image."
        texts = ["<image>\n" * places + asked, f"It is in the {image} image: {_box(draw)}"]
        if draw.random() < 0.2:
            texts += ["And where is it in image-1?", f"In image-1: {_box(draw)}"]
        photos = [
            f"objects365/{draw.randrange(50)}/{draw.randrange(count)}.jpg" for _ in range(places)
        ]
        turns = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]
        yield {"id": number, "images": photos, "conversations": turns, "type": draw.choice(TASKS)}


def _box(draw: random.Random) -> str:
    xs, ys = (sorted(draw.sample(range(1001), 2)) for _ in range(2))
    return f"<|box_start|>({xs[0]},{ys[0]}),({xs[1]},{ys[1]})<|box_end|>."


def _write_photos(folder: Path, count: int) -> None:
    """JPEG files of 1600 x 1200 pixels, a row for each."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((1600, 1200))
    lines = []
    for number in range(count):
        photo.save(folder / f"{number}.jpg")
        image = {"path": f"{number}.jpg", "width": 1600, "height": 1200}
        box = {"image": 0, "box": [100 + number, 300, 1300, 1100]}
        row = {"id": str(number), "images": [image], "question": "the cup", "targets": [box]}
        lines.append(json.dumps(row | {"task": "cup"}) + "\n")
    (folder / "photos.jsonl").write_text("".join(lines), encoding="utf-8")


def _summary(turns: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    return {
        what: {unit: spread([turn[what][unit] for turn in turns]) for unit in own}
        for what, own in turns[0].items()
    }


def _commit(checkout: Path) -> str:
    line = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
