"""Short cuts that large data takes: they give what the long way gives."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made import run_of
from reground.data.convert.common import marked, plain
from reground.data.convert.mentions import _MENTION, _all_mentions, _index
from reground.data.convert.photos import Images
from reground.data.source import path_from
from reground.errors import DataError
from reground.evaluation.records import Prediction, SampleScore, write_predictions
from reground.evaluation.reporting import gallery
from reground.evaluation.reporting.report import Gathered, write_json_report
from reground.evaluation.scoring.bootstrap import MANY, intervals
from reground.evaluation.scoring.metrics import clustered_mean, outcome
from reground.evaluation.scoring.score import score_folder
from reground.grounding.answers import Status, judge
from reground.grounding.boxes import BINS, THOUSAND, UNIT, Box, Frame
from reground.grounding.codecs import EncodedSize
from reground.grounding.grammars import (
    _GAP,
    _LISTINGS,
    _NUMBER_SCAN,
    Grammar,
    _patterns,
    _read_listed,
)
from reground.grounding.paths import below, by_folder, in_no_folder
from reground.grounding.sample import ImageRef, Sample, Target

WORDS = ["image", "Frame", "images", "the ", "seventh ", "source ", "last ", "12th ", "3rd ", "-",
         "#", "4", "photo 2", " ", "\u0131mage 1", "picture"]  # fmt: skip
MARKS = ["<image>", "<|box_start|>", "<|object_ref_start|>", "<|object_ref_end|>", "\n", " a", "b "]
NAMES = st.lists(st.sampled_from(["a", "b.jpg", "..", ".", "", " c", "d e"]), max_size=5)


@given(st.lists(st.sampled_from(WORDS), max_size=9).map("".join))
def test_images_are_mentioned_wherever_the_search_begins(text: str) -> None:
    every = [(_index(match, 9), match.end()) for match in _MENTION.finditer(text)]
    assert [(each.image, each.end) for each in _all_mentions(text, 9)] == every


@given(st.lists(st.sampled_from(MARKS), max_size=9).map("".join))
def test_a_text_without_its_marks_is_the_same_with_and_without_spans(text: str) -> None:
    assert plain(text) == marked(text)[0]


@given(st.booleans(), NAMES, st.booleans())
def test_paths_below_a_folder_are_those_of_pathlib(top: bool, parts: list[str], here: bool) -> None:
    path, folder = "/" * top + "/".join(parts), Path("." if here else "data/own")
    assert below(folder)(path) == str(folder / path)


def test_a_folder_that_is_not_there_is_looked_for_once() -> None:
    asked: list[str] = []
    is_gone = in_no_folder(lambda folder: bool(asked.append(folder)) or folder == "here")
    paths = ["gone/a.jpg", "gone/b.jpg", "here/a.jpg", "a.jpg", "/a.jpg", "gone/..", "gone/", ""]
    assert [path for path in paths if is_gone(path)] == ["gone/a.jpg", "gone/b.jpg"]
    assert asked == ["gone", "here"]


@given(st.lists(st.sampled_from([-0.5, 0, 0.25, 1, 1.5]), min_size=4, max_size=4))
def test_a_box_inside_keeps_its_edges_and_others_are_cut(edges: list[float]) -> None:
    box = Box(*edges, Frame.square(640, 480))
    cut = [min(max(edge, low), high) for edge, low, high in
           zip(edges, (0, 0.125) * 2, (1, 0.875) * 2, strict=True)]  # fmt: skip
    assert list(box.clipped().xyxy) == cut
    assert box.is_inside == (cut == edges) == (box.overhang() == 0)


def test_paths_are_worked_out_once_for_each_folder() -> None:
    asked: list[str] = []

    def move(path: str) -> str:
        asked.append(path)
        return os.path.normpath(os.path.join("up", path))

    moved = by_folder(move)
    assert [moved(f"x/{number}.jpg") for number in range(50)][-1] == "up/x/49.jpg"
    assert moved("../1.jpg") == "1.jpg" and asked == ["x", ".."]


def test_paths_follow_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert path_from(tmp_path, "photos/a.jpg") == f"{name}/photos/a.jpg"


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**53 + 1], ids=["large", "least", "next"])
@pytest.mark.parametrize("field", ["box", "width", "difficulty"])
def test_numbers_that_no_float_holds_are_refused(number: int, field: str) -> None:
    row = _sample(0).to_json()
    if field == "box":
        row["targets"][0]["box"][2] = number
    elif field == "width":
        row["images"][0]["width"] = number
    else:
        row["difficulty"] = number
    with pytest.raises(DataError, match=f"^{field} is "):
        Sample.from_json(json.loads(json.dumps(row)))


def _sample(number: int, **changes: Any) -> Sample:
    image = ImageRef(f"photos/{number // 2}.png", 1000, 1000)
    target = Target(0, Box(10, 10, 500, 500, image.frame))
    strata = {"kind": "odd" if number % 2 else "even"}
    own = {"task": ("find", "track")[number % 3 == 0], "strata": strata}
    return Sample(f"s{number:05d}", (image,), "the cup " * (number % 7), (target,), **own | changes)


def _score(number: int) -> SampleScore:
    if number % 11 == 0:
        return SampleScore(_sample(number), error="no such image")
    status = Status.UNPARSABLE if number % 5 == 0 else Status.OK
    iou = 0.0 if number % 5 == 0 else number % 97 / 97
    return SampleScore(_sample(number), status=status, iou=iou, num_tokens=9, finish="stop")


@pytest.mark.parametrize("count", [0, 1, 5, 24])
def test_a_choice_among_candidates_is_that_among_all(count: int) -> None:
    scores = [_score(number) for number in range(900)]
    candidates = gallery.Candidates(count)
    for each in scores:
        candidates.add(each, outcome(each))
    kept = candidates.scores()
    assert len(kept) < len(scores) / 2
    expected = gallery.choose(scores, count=count, outcome=outcome)
    assert gallery.choose(kept, count=count, outcome=outcome) == expected
    kinds = {each.sample.id: outcome(each) for each in scores}
    in_turn = gallery.choose_in_turn(scores, kinds, count=count)
    assert gallery.choose_in_turn(kept, kinds, count=count) == in_turn


def test_a_report_made_while_scores_are_written_is_that_of_the_file(tmp_path: Path) -> None:
    samples = [_sample(number) for number in range(60)]
    size = EncodedSize(1000, 1000, 1008, 1008)
    rows = [
        Prediction(
            each, f"<think>a</think><answer>(10,10),({9 * place},480)</answer>", (size,), 9, "stop"
        )
        if place % 13
        else Prediction(each, error="no such image")
        for place, each in enumerate(samples)
    ]
    write_predictions(tmp_path, rows, run=run_of(samples))
    reports: list[Gathered] = []

    def begin(run: Any) -> Any:
        reports.append(Gathered(run))
        return reports[-1]

    score_folder(tmp_path, out=tmp_path / "out", begin=begin)
    made = reports[0].write(tmp_path / "out", partial=False)
    assert json.loads(json.dumps(made)) == json.loads(
        json.dumps(write_json_report(tmp_path / "out"))
    )
    assert made["errors"] == 5 and 0 < made["acc@0.5"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("per_image", [1, 3])
def test_intervals_of_many_images_are_as_wide_as_their_standard_errors(per_image: int) -> None:
    """Which 2,000 resamples give to two or three percent."""
    rng = np.random.default_rng(3)
    images = [str(number // per_image) for number in range(per_image * (MANY + 500))]
    rates = rng.beta(6, 4, size=MANY + 500).repeat(per_image)
    hits, ious = rng.random(len(images)) < rates, rng.random(len(images)) * rates
    tasks = ["rare" if number < 90 else "usual" for number in range(len(images))]
    found = intervals({"hit": hits.astype(float), "iou": ious}, tasks=tasks, clusters=images)
    for values, own in ((hits, found["hit"]), (ious, found["iou"])):
        for end, rows in ((own.overall, slice(None)), (own.tasks["rare"], slice(0, 90))):
            mean = clustered_mean(values[rows].astype(float), images[rows])
            assert end is not None and mean.value is not None and mean.stderr is not None
            assert end.high - end.low == pytest.approx(2 * 1.96 * mean.stderr, rel=0.12)
            assert (end.high + end.low) / 2 == pytest.approx(mean.value, abs=mean.stderr / 3)
    again = intervals({"hit": hits.astype(float), "iou": ious}, tasks=tasks, clusters=images)
    assert again == found and math.isfinite(found["iou"].macro.low if found["iou"].macro else 0)


def _broken(lines: list[bytes], kind: str) -> None:
    if kind == "two of one id, then a bad row":
        lines[23], lines[24] = lines[2], b"{}\n"
    if kind == "a bad row, then two of one id":
        lines[24], lines[25] = b"{}\n", lines[2]
    if kind == "a size is missing":
        lines[30] = lines[30].replace(b'"sizes":[{"width":1000', b'"sizes":[{"width":null')


KINDS = ["", "two of one id, then a bad row", "a bad row, then two of one id", "a size is missing"]


@pytest.mark.parametrize("scorer", ["reground", "vlm_r1"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_scored_by_several_processes_as_by_one(
    tmp_path: Path, kind: str, scorer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reground.evaluation.records._AT_ONCE", 5)
    samples = [_sample(number) for number in range(40)]
    run = replace(run_of(samples), authors_scorer="mig_bench")
    write_predictions(tmp_path, map(_answer, samples), run=run)
    lines = (tmp_path / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    _broken(lines, kind)
    (tmp_path / "predictions.jsonl").write_bytes(b"".join(lines))
    one, several = (_scored(tmp_path, scorer, workers) for workers in (1, 3))
    assert one == several and isinstance(one, str) == bool(kind)


def _answer(sample: Sample) -> Prediction:
    number = int(sample.id[1:])
    if number % 13 == 0:
        return Prediction(sample, error="no such image")
    text = f"<think>a</think><answer>(10,10),({9 * number},480)</answer>"
    size = EncodedSize(1000, 1000, 1008, 1008)
    return Prediction(sample, text, (size,), 9, "no_call" if number == 7 else "stop")


def _scored(folder: Path, scorer: str, workers: int) -> Any:
    """The scores and the report, or the error."""
    reports: list[Gathered] = []

    def begin(run: Any) -> Any:
        reports.append(Gathered(run))
        return reports[-1]

    out = folder / "out"
    try:
        count = score_folder(folder, out=out, scorer=scorer, begin=begin, workers=workers)
    except DataError as error:
        assert not (out / "scores.jsonl").exists()
        return str(error)
    report = reports[0].write(out, partial=False)
    found = (count, (out / "scores.jsonl").read_bytes(), json.dumps(report))
    (out / "scores.jsonl").unlink()
    return found


PARTS = ["(1,2),(3,4)", "[1,2,3,4]", "[0.5, 1, 2, 3]", "<box>1 2 3 4</box>", "none", ",", "(", "1",
         "<|box_start|>", "<|box_end|>", "[", "]", "1, 2, 3, 4", "[1,2,3,4;5,6,7,8]", "</box>", " ",
         "<loc_1><loc_2><loc_3><loc_4>", "<loc0001><loc0002><loc0003><loc0004>", "a", ";", "<box>",
         "<object><patch_index_0001><patch_index_0099></object>", "<ref>a</ref>", "[[", "]]",
         "<bbox>1 2 3 4</bbox>"]  # fmt: skip


@given(st.sampled_from([*_LISTINGS]), st.lists(st.sampled_from(PARTS), max_size=4).map("".join))
def test_boxes_alone_are_read_as_those_among_words(grammar: Grammar, text: str) -> None:
    silent, group, remains, alone = _patterns(grammar)
    own = silent.sub(" ", text)
    found = [number for each in group.findall(own) for number in _NUMBER_SCAN.findall(each)]
    is_good = bool(found) and not remains.search(group.sub(_GAP, own))
    if alone.fullmatch(own):
        assert is_good and found == _NUMBER_SCAN.findall(own)
    reading = _read_listed(text, grammar)
    if own.strip() != "none":
        assert (reading.quads is not None) == is_good
        assert reading.is_strict == (is_good and alone.fullmatch(own) is not None)


EDGES = st.sampled_from([-0.6, -0.5, 0, 0.2, 0.875, 1, 1.001, 5, 640, 999.5, 1000, 1003])


@given(st.lists(st.lists(EDGES, min_size=4, max_size=4), max_size=2),
       st.sampled_from([THOUSAND, UNIT, BINS, Frame.square(640, 480)]))  # fmt: skip
def test_a_box_well_inside_is_judged_as_any(quads: list[list[float]], frame: Frame) -> None:
    pixels = Frame.pixels(641, 479)
    expected: list[Box] = []
    for quad in quads:
        box = Box(*quad, frame)
        if box.overhang() > 0.01 + 1e-9 or box.clipped().is_degenerate:
            assert judge(quads, frame, pixels).boxes == ()
            return
        expected.append(box.clipped().to(pixels).clipped())
    assert judge(quads, frame, pixels).boxes == tuple(expected)


@given(st.lists(NAMES.map("/".join), min_size=1, max_size=6))
def test_images_of_a_folder_that_is_not_there_are_found_once(names: list[str]) -> None:
    root, own = Path("no/such/folder"), Images(Path("no/such/folder"), True)
    paths = [str(root / name) for name in names]
    assert [each.path for each in own.refs(names)] == paths == [own.ref(n).path for n in names]
    assert [each.path for each in own.refs(names)] == paths
