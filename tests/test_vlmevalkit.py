"""VLMEvalKit itself with our data set class, where a clone of it can be imported."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("vlmeval", reason="VLMEvalKit is a clone to bring: docs/harnesses.md")

import vlmeval
from vlmeval.smp import dump, encode_image_to_base64

from asking import served
from reground.api import Grounder
from reground.data.source import save_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target
from reground.integrations.exam import Exam
from reground.integrations.vlmevalkit import dataset_class, scores, write_tsv

RUN = Path(vlmeval.__file__).parents[1] / "run.py"
TASKS = ("referring", "correspondence")
SAME = ("acc@0.5", "acc@0.5_stderr", "mean_iou", "mean_iou_stderr")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where VLMEvalKit looks for data."""
    monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))
    (tmp_path / "LMUData").mkdir()
    return tmp_path / "LMUData"


def test_run_py_finds_what_reground_eval_finds(data: Path, tmp_path: Path, tiny: Grounder) -> None:
    exams = {task: Exam.of(f"synth:{task}", model="tiny", limit=40) for task in TASKS}
    for task, exam in exams.items():
        write_tsv(data / f"reground_{task}.tsv", exam)
    with served(tiny, tiny) as client:
        line = [sys.executable, "-m", "reground.integrations.vlmevalkit", str(RUN), "--data"]
        line += [f"reground_{task}" for task in TASKS]
        line += ["--model", "tiny", "--base-url", f"{client.base_url}/v1", "--work-dir"]
        subprocess.run([*line, str(tmp_path / "out")], check=True, cwd=RUN.parent)
    found = json.loads((tmp_path / "out/tiny/status.json").read_bytes())["datasets"]
    for task, exam in exams.items():
        shown = _as_they_are_sent(exam, tmp_path / task)
        own = evaluate(tmp_path / "own" / task, Question(model="tiny", data=str(shown)))
        theirs = found[f"reground_{task}"]["metrics"]
        assert {name: theirs[name] for name in SAME} == {name: own[name] for name in SAME}


def _as_they_are_sent(exam: Exam, folder: Path) -> Path:
    """The samples, their images as VLMEvalKit sends them to a server: as JPEG, with its loss."""
    folder.mkdir()
    samples = []
    for asked in exam.open():
        refs = []
        for ref, image in zip(asked.sample.images, exam.images(asked), strict=True):
            path = folder / f"{asked.sample.id}-{len(refs)}.jpg"
            path.write_bytes(base64.b64decode(encode_image_to_base64(image)))
            refs.append(replace(ref, path=str(path)))
        samples.append(replace(asked.sample, images=tuple(refs)))
    save_dataset(folder / "rows.jsonl", samples)
    return folder / "rows.jsonl"


def test_a_new_tsv_brings_its_own_images(data: Path) -> None:
    for seed in (1, 2):
        exam = Exam.of("synth:correspondence", model="tiny", limit=3, seed=seed)
        write_tsv(data / "reground_pairs.tsv", exam)
        dataset = dataset_class()("reground_pairs")
        for place, asked in enumerate(exam.open()):
            *images, text = (part["value"] for part in dataset.build_prompt(place))
            assert text == exam.text(asked)
            assert [Image.open(path).tobytes() for path in images] == [
                image.tobytes() for image in exam.images(asked)
            ]


@pytest.mark.parametrize("format", ["xlsx", "tsv", "json"])
def test_answers_are_read_from_every_format(format: str, data: Path, tmp_path: Path) -> None:
    Image.new("RGB", (640, 480)).save(tmp_path / "cells.png")
    ref = ImageRef(str(tmp_path / "cells.png"), 640, 480)
    at = [Target(0, Box(x, y, x + 9, y + 9, ref.frame)) for x in range(40) for y in range(40)]
    asked = {"many": tuple(at), "one": (at[0],)}
    rows = [Sample(name, (ref,), "cells", own, "dense") for name, own in asked.items()]
    save_dataset(tmp_path / "rows.jsonl", rows)
    write_tsv(data / "reground_cells.tsv", Exam.of(str(tmp_path / "rows.jsonl"), family="qwen3_vl"))
    dataset = dataset_class()("reground_cells")
    table = dataset.data.assign(prediction=["none", '[{"bbox_2d": [0, 0, 14, 19]}]'])
    expected = scores(table.to_dict("records"))
    table.pop("image")
    dump(table, str(tmp_path / f"answers.{format}"))
    assert dataset.evaluate(str(tmp_path / f"answers.{format}")) == expected
    assert expected["acc@0.5"] == 0.5
