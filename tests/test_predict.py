"""Answering a data set: who is answered, in which order, and what becomes of bad images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from files import read_rows
from reground.cli import app
from reground.data import images
from reground.data.images import load
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError, DataError, RunError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.local import LocalModel
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question
from reground.evaluation.predicting.shards import Shard, merge
from reground.evaluation.records import Prediction, read_predictions, read_run
from reground.evaluation.reporting.report import write_json_report
from reground.evaluation.scoring.score import score_folder
from reground.grounding.boxes import Box
from reground.grounding.codecs import PixelLimits
from reground.grounding.sample import Detection, ImageRef, Sample, Target
from reground.model.chat import Chat
from reground.model.load import load as load_checkpoint
from reground.model.prompting import Prompter
from reground.rollout.environment import PlannedEnvironment
from reground.rollout.policy import Sampling
from scripted import ScriptedPolicy

ASKED = Question(model="tiny", data="synth:attribute@1-2", limit=5, max_tokens=64)


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter.of(load_checkpoint("tiny"))


def photo(folder: Path, name: str, width: int = 40, height: int = 30) -> Sample:
    path = folder / f"{name}.png"
    Image.new("RGB", (width, height), (200, 30, 30)).save(path)
    return Sample(name, (ImageRef(str(path), width, height),), "the cup", (), task="test")


def answers(
    prompter: Prompter, text: str, samples: list[Sample], *, blank: bool = False
) -> list[Prediction]:
    policy = ScriptedPolicy(prompter.checkpoint.chat, lambda prompt, number: text)
    found: list[Prediction] = []
    model = LocalModel(
        prompter, policy, PlannedEnvironment(prompter), None, Sampling(max_tokens=40), blank=blank
    )
    model.answer(samples, add=found.append)
    return found


def test_samples_without_a_usable_image_are_kept_with_the_reason(
    prompter: Prompter, tmp_path: Path
) -> None:
    samples = [photo(tmp_path, name) for name in ("a", "gone", "b")]
    samples.insert(2, photo(tmp_path, "thin", width=2, height=402))
    (tmp_path / "gone.png").unlink()
    found = answers(prompter, "(1,2),(3,4)", samples)
    assert [each.sample.id for each in found] == ["a", "gone", "thin", "b"]
    assert [each.error is None for each in found] == [True, False, False, True]
    assert "no such image" in str(found[1].error) and "2 x 402 pixels" in str(found[2].error)
    assert found[3].text is not None and found[3].text.startswith("(1,2),(3,4)")


@pytest.mark.parametrize(("question", "context"), [("the cup", 6), ("the cup " * 40, 60)])
def test_a_prompt_that_the_context_does_not_hold_is_an_error_of_its_sample(
    prompter: Prompter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    question: str,
    context: int,
) -> None:
    text_config = prompter.checkpoint.model.config.get_text_config()
    monkeypatch.setattr(text_config, "max_position_embeddings", context)
    sample = replace(photo(tmp_path, "a", 112, 112), question=question)
    (found,) = answers(prompter, "[]", [sample])
    assert found.error is not None
    assert "sample 'a': its prompt has" in found.error
    assert f"the model's context holds {context} with the answer; lower max_pixels" in found.error


def test_blank_images_are_grey_and_of_the_same_size(
    prompter: Prompter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(self: Chat, images: list[Image.Image]) -> object:
        seen.extend(images)
        return encode(self, images)

    encode = Chat.encode_images
    monkeypatch.setattr(Chat, "encode_images", spy)
    sample = photo(tmp_path, "a")
    answers(prompter, "none", [sample], blank=True)
    answers(prompter, "none", [sample])
    assert [image.size for image in seen] == [(40, 30)] * 2
    assert seen[0].getcolors() == [(1200, (128, 128, 128))]
    assert seen[1].tobytes() == load(sample.images[0]).tobytes()


def test_an_endless_task_needs_a_limit_and_an_unknown_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--limit"):
        predict_folder(tmp_path, Question(model="tiny", data="synth:relation"))
    with pytest.raises(DataError, match="nope"):
        predict_folder(tmp_path, Question(model="tiny", data="synth:nope", limit=1))
    assert not list(tmp_path.iterdir())


def test_an_evaluation_reports_what_its_own_files_say(tmp_path: Path) -> None:
    report = evaluate(tmp_path, ASKED)
    assert report == json.loads((tmp_path / "report.json").read_text())
    rows = read_rows(tmp_path / "scores.jsonl")
    asked = open_dataset("synth:attribute@1-2", seed=7, limit=5)
    assert [row["sample"]["id"] for row in rows] == [sample.id for sample in asked]
    assert report["n"] == 5
    assert report["acc@0.5"] == sum(row["iou"] > 0.5 for row in rows) / 5
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_same_call_again_asks_nothing_and_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict_folder(tmp_path, ASKED) == 5
    before = (tmp_path / "predictions.jsonl").read_bytes()
    with monkeypatch.context() as never:
        never.setattr(LocalModel, "answer", None)
        assert predict_folder(tmp_path, ASKED) == 5
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    own = tmp_path / "own.txt"
    own.write_text("Where is $question?")
    for changed, words in (
        (
            replace(ASKED, prompt=str(own)),
            r"prompts is .*sha256='[0-9a-f]{64}'.* there and .*name='own'",
        ),
        (replace(ASKED, seed=8), r"data_sha256 is [0-9a-f]{64} there and [0-9a-f]{64} here"),
    ):
        with pytest.raises(RunError, match=words):
            predict_folder(tmp_path, changed)
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    predict_folder(whole, ASKED)
    killed.mkdir()
    (killed / "run.json").write_bytes((whole / "run.json").read_bytes())
    lines = (whole / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    marked = lines[3].replace(b'"text":"', b'"text":"kept ')
    (killed / "answers.jsonl").write_bytes(marked + lines[0] + lines[1][:50])
    assert predict_folder(killed, ASKED) == 5
    found = list(read_predictions(killed))
    assert found[3].text.startswith("kept ")
    expected = [*lines[:3], marked, lines[4]]
    assert (killed / "predictions.jsonl").read_bytes() == b"".join(expected)


def test_an_evaluation_in_which_nothing_was_answered_says_so(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data.jsonl", [photo(tmp_path, "a"), photo(tmp_path, "b")])
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").unlink()
    report = evaluate(tmp_path / "out", Question(model="tiny", data=str(tmp_path / "data.jsonl")))
    assert (report["n"], report["errors"], report["acc@0.5"]) == (0, 2, None)
    assert all("no such image" in reason for reason in report["reasons"])
    text = (tmp_path / "out/report.md").read_text()
    assert "2 more that were never answered" in text and "without an answer: " in text
    again = CliRunner().invoke(
        app, ["score", str(tmp_path / "out"), "--out", str(tmp_path / "out")]
    )
    assert again.exit_code == 1 and "none of 2 samples was ever answered" in again.output
    assert not (tmp_path / "out/report.html").exists()  # it showed other scores


def test_merging_never_replaces_another_run(tmp_path: Path) -> None:
    predict_folder(tmp_path / "other", replace(ASKED, seed=9))
    parts = [tmp_path / "1", tmp_path / "2"]
    for index, part in enumerate(parts, start=1):
        predict_folder(part, replace(ASKED, shard=Shard(index, 2)))
    with pytest.raises(DataError, match="holds another run"):
        merge(parts, out=tmp_path / "other")
    assert read_run(tmp_path / "other").seed == 9


def test_an_empty_shard_and_a_processor_without_a_server_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shard 6/6 of 5 samples is empty"):
        predict_folder(tmp_path / "out", replace(ASKED, shard=Shard(6, 6)))
    with pytest.raises(ConfigError, match="--processor is for servers"):
        predict_folder(tmp_path / "out", replace(ASKED, processor="tiny"))


def test_two_samples_of_one_name_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data.jsonl", [photo(tmp_path, "a"), photo(tmp_path, "a")])
    with pytest.raises(DataError, match=r"data\.jsonl:2: duplicate id: 'a' stands in row 1"):
        predict_folder(tmp_path / "out", Question(model="tiny", data=str(tmp_path / "data.jsonl")))


def test_shards_merge_to_the_whole_whatever_their_order(tmp_path: Path) -> None:
    predict_folder(tmp_path / "whole", ASKED)
    parts = []
    for shard in (Shard(3, 3), Shard(1, 3), Shard(2, 3)):
        parts.append(tmp_path / f"part{shard.index}")
        predict_folder(parts[-1], replace(ASKED, shard=shard))
    assert merge(parts, out=tmp_path / "merged") == 5
    for name in ("predictions.jsonl", "run.json"):
        merged = (tmp_path / "merged" / name).read_bytes()
        assert merged == (tmp_path / "whole" / name).read_bytes()
    for wrong, message in (
        (parts[:2], "shard 2/3 is missing"),
        ([*parts, parts[0]], "shard 3/3 is there twice"),
        ([tmp_path / "whole", parts[0]], "holds a whole run"),
    ):
        with pytest.raises(DataError, match=message):
            merge(wrong, out=tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
    score_folder(parts[0], out=parts[0])
    with pytest.raises(DataError, match=r"shard 3/3 holds 1 of the 5 samples of synth:attr"):
        write_json_report(parts[0])
    report = write_json_report(parts[0], partial=True)
    assert report["title"].endswith("partial, 1 of 5 samples")


def test_parts_of_different_runs_and_parts_with_a_gap_are_not_merged(tmp_path: Path) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    predict_folder(parts[0], replace(ASKED, shard=Shard(1, 2)))
    predict_folder(parts[1], replace(ASKED, shard=Shard(2, 2), seed=9))
    with pytest.raises(DataError, match="parts of different runs: data_sha256 is"):
        merge(parts, out=tmp_path / "out")
    predict_folder(tmp_path / "3", replace(ASKED, shard=Shard(2, 2)))
    lines = (tmp_path / "3" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "3" / "predictions.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="4 of the 5 samples"):
        merge([parts[0], tmp_path / "3"], out=tmp_path / "out")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "", "1/0"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected i/n"):
        Shard.of(text)


def test_a_benchmark_brings_its_rule_its_prompt_and_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGROUND_DATA", str(tmp_path))
    for name in ("mig_bench", "vg_refiner_evf_refcoco_testA"):
        row = photo(tmp_path, "a")
        row = replace(row, tool_results=(Detection(0, Box(1, 2, 30, 20, row.images[0].frame)),))
        save_dataset(tmp_path / f"{name}.jsonl", [row])
    mig = Question(model="tiny", data="mig_bench", limit=1, max_tokens=4)
    predict_folder(tmp_path / "mig", mig)
    run = read_run(tmp_path / "mig")
    assert (run.hit, run.prompts["think"].name, run.limit) == (">=", "tiny", 1)
    assert (run.min_pixels, run.max_pixels) == (3136, 401_408)  # as its authors show images
    content = (tmp_path / "mig_bench.jsonl").read_bytes()
    assert run.file_sha256 == hashlib.sha256(content).hexdigest()
    refined = replace(mig, data="vg_refiner_evf_refcoco_testA", family="qwen3_vl")
    predict_folder(tmp_path / "refined", refined)
    run = read_run(tmp_path / "refined")
    assert (run.hit, run.protocol, run.protocol_by) == (">", "piter", "benchmark")
    assert (run.min_pixels, run.max_pixels) == (400, 401_408)  # the checkpoint's


@pytest.mark.parametrize(
    ("data", "flags", "any_size", "expected"),
    [
        ("mig_bench", {}, True, PixelLimits(3136, 401_408)),
        ("mig_bench", {"max_pixels": 50_000}, True, PixelLimits(3136, 50_000)),
        ("mig_bench", {"min_pixels": 1, "max_pixels": 2}, True, PixelLimits(1, 2)),
        ("mig_bench", {}, False, PixelLimits()),  # tiles
        ("mig_bench", {"max_pixels": 9}, False, PixelLimits(None, 9)),
        ("lisa_grounding_test", {}, True, PixelLimits(None, 640_000)),
        ("lisa_grounding_test", {"min_pixels": 5}, True, PixelLimits(5, 640_000)),
        ("refcoco_val", {}, True, PixelLimits()),
        ("synth:diff", {"min_pixels": 5}, True, PixelLimits(5, None)),
    ],
)
def test_a_flag_decides_how_large_images_are_then_the_benchmark(
    data: str, flags: dict[str, int], any_size: bool, expected: PixelLimits
) -> None:
    assert Question(model="m", data=data, **flags).limits(any_size=any_size) == expected  # type: ignore[arg-type]


def test_limits_are_those_that_images_are_encoded_at(tmp_path: Path) -> None:
    words = ["eval", "--data", "synth:attribute@1-2", "--limit", "2", "--max-tokens", "4"]
    words += ["--min-pixels", "3000", "--max-pixels", "4000", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    run = read_run(tmp_path / "out")
    assert (run.min_pixels, run.max_pixels) == (3000, 4000)
    sizes = [size for row in read_predictions(tmp_path / "out") for size in row.sizes]
    assert all(3000 <= size.input_width * size.input_height <= 4000 for size in sizes)
    assert "| max pixels | 4000 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": "mig_bench", "max_pixels": 3000}, "min_pixels 3136 is above max_pixels 3000"),
        ({"max_pixels": 399}, "images of 400 to 399 pixels; .* set min_pixels as well"),
        ({"min_pixels": 1, "max_pixels": 399}, "min_pixels 1 is less than the smallest image"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.setenv("REGROUND_DATA", str(tmp_path))
    save_dataset(tmp_path / "mig_bench.jsonl", [photo(tmp_path, "a")])
    with pytest.raises(ConfigError, match=says):
        predict_folder(tmp_path / "out", replace(ASKED, limit=1, **changes))
    assert not (tmp_path / "out").exists()


def test_a_very_large_jpeg_is_asked_about_in_its_own_frame(
    prompter: Prompter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jpg"
    Image.effect_noise((40, 30), 60).resize((1600, 1200)).convert("RGB").save(path)
    image = ImageRef(str(path), 1600, 1200)
    target = Target(0, Box(100, 200, 900, 1000, image.frame))
    sample = Sample("large", (image,), "the cell", (target,), "test")
    whole = prompter.prompt(sample)
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)
    monkeypatch.setenv("REGROUND_MAX_IMAGE_PIXELS", "2000000")
    _, most = prompter.checkpoint.chat.adapter.limits(prompter.checkpoint.chat.image_processor)
    assert load(image, most=most).size != (1600, 1200)
    shrunk = prompter.prompt(sample)
    assert shrunk.images[0].size == whole.images[0].size and shrunk.ids == whole.ids
    assert prompter.gold(sample, shrunk) == prompter.gold(sample, whole)
    gap = (shrunk.images[0].pixel_values - whole.images[0].pixel_values).abs()
    assert 0 < float(gap.mean()) < 0.02
