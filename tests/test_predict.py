"""Answering a data set: who is answered, in which order, and what becomes of bad images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from reground.data.images import load
from reground.data.source import open_dataset
from reground.errors import ConfigError, DataError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predict import predict, predict_folder
from reground.grounding.sample import ImageRef, Sample
from reground.model.load import load as load_checkpoint
from reground.model.prompting import Prompter
from reground.rollout.scripted import ScriptedPolicy


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter.of(load_checkpoint("tiny"))


def photo(folder: Path, name: str, width: int = 40, height: int = 30) -> Sample:
    path = folder / f"{name}.png"
    Image.new("RGB", (width, height), (200, 30, 30)).save(path)
    return Sample(name, (ImageRef(str(path), width, height),), "the cup", (), task="test")


def test_samples_without_a_usable_image_are_kept_with_the_reason(
    prompter: Prompter, tmp_path: Path
) -> None:
    samples = [photo(tmp_path, name) for name in ("a", "gone", "b")]
    samples.insert(2, photo(tmp_path, "thin", width=2, height=402))
    (tmp_path / "gone.png").unlink()
    policy = ScriptedPolicy(prompter.checkpoint.chat, lambda prompt, number: "(1,2),(3,4)")
    found = list(predict(prompter, policy, samples, max_tokens=40))
    assert [each.sample.id for each in found] == ["a", "gone", "thin", "b"]
    assert [each.error is None for each in found] == [True, False, False, True]
    assert "no such image" in str(found[1].error) and "2 x 402 pixels" in str(found[2].error)
    assert found[3].text is not None and found[3].text.startswith("(1,2),(3,4)")


def test_blank_images_are_grey_and_of_the_same_size(
    prompter: Prompter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(self: Prompter, images: list[Image.Image], text: str) -> object:
        seen.extend(images)
        return ask(self, images, text)

    ask = Prompter.ask
    monkeypatch.setattr(Prompter, "ask", spy)
    policy = ScriptedPolicy(prompter.checkpoint.chat, lambda prompt, number: "none")
    sample = photo(tmp_path, "a")
    list(predict(prompter, policy, [sample], max_tokens=8, blank=True))
    list(predict(prompter, policy, [sample], max_tokens=8))
    assert [image.size for image in seen] == [(40, 30)] * 2
    assert seen[0].getcolors() == [(1200, (128, 128, 128))]
    assert seen[1].tobytes() == load(sample.images[0]).tobytes()


def test_an_endless_task_needs_a_limit_and_an_unknown_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--limit"):
        predict_folder(tmp_path, model="tiny", data="synth:relation", seed=1, limit=None)
    with pytest.raises(DataError, match="nope"):
        predict_folder(tmp_path, model="tiny", data="synth:nope", seed=1, limit=None)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_reports_what_its_own_files_say(tmp_path: Path) -> None:
    report = evaluate(tmp_path, model="tiny", data="synth:attribute@1-2", limit=5, max_tokens=64)
    assert report == json.loads((tmp_path / "report.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    asked = open_dataset("synth:attribute@1-2", seed=7, limit=5)
    assert [row["sample"]["id"] for row in rows] == [sample.id for sample in asked]
    assert report["n"] == 5
    assert report["acc@0.5"] == sum(row["iou"] > 0.5 for row in rows) / 5
    assert (tmp_path / "report.html").stat().st_size > 10_000
