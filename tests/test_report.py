"""The report: its figures, its page, its gallery and its curves."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from made import run_of
from reground.errors import DataError
from reground.evaluation.records import RunInfo, SampleScore, write_scores
from reground.evaluation.reporting import gallery
from reground.evaluation.reporting.curves import draw_curves, read_metrics
from reground.evaluation.reporting.report import (
    build_report,
    comparison,
    comparison_markdown,
    write_report,
)
from reground.evaluation.scoring.metrics import Outcome, outcome
from reground.grounding.answers import Status
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target

ATTACK = "<script>alert('x')</script>\"'&"


def score(
    name: str, iou: float | None, *, status: Status = Status.OK, **changes: Any
) -> SampleScore:
    """A scored sample ``name``; the fields of its sample may be changed by name."""
    image = ImageRef(f"{name}.png", 64, 48)
    sample = Sample(name, (image,), "the cup", (Target(0, Box(8, 8, 40, 40, image.frame)),), "find")
    sample = replace(sample, **changes)
    if iou is None:
        return SampleScore(sample, error="no such image")
    return SampleScore(
        sample,
        status=status,
        iou=iou,
        predicted=((8.0, 8.0, 40.0, 24.0),) if status is Status.OK else (),
        num_tokens=12,
        finish="stop",
        text="(125,166),(625,500)",
    )


def run_for(scores: list[SampleScore], **changes: Any) -> RunInfo:
    return run_of((score.sample for score in scores), **changes)


def report_page(folder: Path, scores: list[SampleScore], **options: Any) -> str:
    write_scores(folder, scores, run=run_for(scores))
    write_report(folder, **options)
    return (folder / "report.html").read_text(encoding="utf-8")


class _Links(HTMLParser):
    """Every address that a page names, and how many of each element it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.elements: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        links = {"src", "href", "xlink:href", "srcset", "action", "data"}
        self.addresses += [value or "" for name, value in attrs if name in links]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_report_json_has_the_fixed_keys(tmp_path: Path) -> None:
    scores = [
        score("a", 0.9, strata={"kind": "relation"}),
        score("b", 0.4, strata={"kind": "attribute"}),
        score("c", 0.0, status=Status.UNPARSABLE, task="track"),
        score("d", None),
    ]
    write_scores(tmp_path, scores, run=run_for(scores))
    returned = write_report(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report == returned == build_report(scores, run=run_for(scores))
    fixed = {"n", "acc@0.3", "acc@0.5", "acc@0.5_stderr", "acc@0.7", "mean_iou", "mean_iou_stderr"}
    fixed |= {"status", "errors", "images"}
    assert fixed | {"tasks", "strata", "macro@0.5", "run"} <= report.keys()
    for group in (*report["tasks"].values(), *report["strata"].values()):
        assert fixed <= group.keys()
    assert (report["n"], report["errors"], report["status"]["unparsable"]) == (3, 1, 1)
    assert report["acc@0.5"] == pytest.approx(1 / 3)
    assert report["macro@0.5"] == pytest.approx(1 / 4)
    assert report["strata"]["kind=relation"]["acc@0.5"] == 1
    assert report["run"]["prompt_sha256"] == "0" * 64


def test_figures_that_people_read_have_intervals(tmp_path: Path) -> None:
    scores = [score(f"a{i}", 0.9 * (i % 4 > 0), strata={"kind": "x"}) for i in range(40)]
    scores += [score("b", 0.9, task="track"), score("c", None, task="none")]
    write_scores(tmp_path, scores, run=run_for(scores))
    report = write_report(tmp_path)
    low, high = report["acc@0.5_interval"]
    assert low < report["acc@0.5"] < high
    assert report["mean_iou_interval"][0] < report["mean_iou"] < report["mean_iou_interval"][1]
    assert report["macro@0.5_interval"] is None  # a task has one image only
    tasks = {name: row["acc@0.5_interval"] for name, row in report["tasks"].items()}
    assert tasks["find"] == pytest.approx([0.6, 0.875], abs=0.06)
    assert (tasks["track"], tasks["none"]) == (None, None)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert f"{100 * low:.1f} to {100 * high:.1f}" in text
    lines = (tmp_path / "report.md").read_text("utf-8").splitlines()
    start = next(place for place, line in enumerate(lines) if "| Acc" in line)
    head, _, row = lines[start : start + 3]
    assert head.count("|") == row.count("|") == 9


def test_a_report_is_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n')
    write_scores(tmp_path, [score("a", 0.9)], run=run_for([score("a", 0.9)]))
    files = [tmp_path / f"report.{kind}" for kind in ("json", "md", "html")]
    write_report(tmp_path, training=tmp_path)
    first = [file.read_bytes() for file in files]
    write_report(tmp_path, training=tmp_path)
    assert [file.read_bytes() for file in files] == first


def test_a_page_escapes_what_models_and_users_wrote(tmp_path: Path) -> None:
    hostile = score("a", 0.9, question=ATTACK, task=ATTACK, strata={ATTACK: ATTACK}, id=ATTACK)
    hostile = replace(hostile, text=ATTACK, think=ATTACK, rethink=ATTACK)
    failed = SampleScore(replace(score("b", 0.1).sample, task="other"), error=ATTACK)
    scores = [hostile, failed]
    run = run_for(scores, model=ATTACK, data=ATTACK, prompt=ATTACK)
    write_scores(tmp_path, scores, run=run)
    write_report(tmp_path)
    page = _Links((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.elements.count("script") == 1  # our own
    shown = sum(ATTACK in text for text in page.texts)
    assert shown >= 9  # heading, title, run, task, stratum, question, thoughts, answer, error


def test_a_page_opens_without_a_network(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "a.png")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n')
    one = score("a", 0.9, images=(ImageRef(str(tmp_path / "a.png"), 64, 48),))
    page = report_page(tmp_path, [one], training=tmp_path)
    addresses = _Links(page).addresses
    assert any(address.startswith("data:image/png;base64,") for address in addresses)
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)|<link", page)


def test_a_page_draws_boxes_in_original_pixels(tmp_path: Path) -> None:
    page = report_page(tmp_path, [score("a", 0.5)])
    assert '<svg viewBox="0 0 64 48"' in page
    assert '<rect class="truth" x="8.0" y="8.0" width="32.0" height="32.0"/>' in page
    assert '<rect class="predicted" x="8.0" y="8.0" width="32.0" height="16.0"/>' in page
    assert "IoU 0.50" in page


def test_a_missing_image_is_said(tmp_path: Path) -> None:
    page = report_page(tmp_path, [score("a", 0.9)])
    assert "a.png: no such image" in page
    assert '<rect class="absent"' in page


def test_boxes_stand_on_the_image_that_was_asked_for(tmp_path: Path) -> None:
    images = (ImageRef("first.png", 30, 20), ImageRef("second.png", 64, 48))
    target = Target(1, Box(8, 8, 40, 40, images[1].frame))
    page = report_page(
        tmp_path, [score("a", 0.9, images=images, targets=(target,), target_image=1)]
    )
    first, second = re.findall(r'<svg viewBox="0 0 (?:30 20|64 48)".*?</svg>', page, re.DOTALL)
    assert 'class="truth"' not in first and 'class="predicted"' not in first
    assert 'class="truth"' in second and 'class="predicted"' in second
    assert "image 2, asked for" in page


def test_a_page_without_any_score_still_says_so(tmp_path: Path) -> None:
    page = report_page(tmp_path, [score("a", None)])
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["n"], report["errors"], report["acc@0.5"]) == (0, 1, None)
    assert "never answered" in page
    assert "never answered" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_markdown_tables_survive_odd_names(tmp_path: Path) -> None:
    scores = [score("a", 0.9, strata={"a|b": "c\nd"}), score("b", 0.1)]
    write_scores(tmp_path, scores, run=run_for(scores))
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**Acc@0.5 50.0 ± 50.0 %**" in text
    row = next(line for line in text.splitlines() if "a\\|b=c d" in line)
    assert row.replace("\\|", "").count("|") == 8


def test_comparison_shows_figures_beside_their_errors() -> None:
    scores = [score(str(index), 0.9 if index < 30 else 0.1) for index in range(40)]
    before = build_report(scores[20:], run=run_for(scores[20:]))
    after = build_report(scores, run=run_for(scores))
    rows = comparison({"before": before, "after": after})
    assert [(row.name, row.accuracy, row.mean_iou, row.n) for row in rows] == [
        ("before", "50.0 ± 11.5", "50.0 ± 9.2", "20"),
        ("after", "75.0 ± 6.9", "70.0 ± 5.5", "40"),
    ]
    assert comparison_markdown({"before": before, "after": after}) == (
        "|        | Acc@0.5 (%) | mean IoU (%) |  n |\n"
        "|--------|------------:|-------------:|---:|\n"
        "| before | 50.0 ± 11.5 |   50.0 ± 9.2 | 20 |\n"
        "| after  |  75.0 ± 6.9 |   70.0 ± 5.5 | 40 |\n"
    )


# ---- gallery -----------------------------------------------------------------------------------


def mixed_scores() -> list[SampleScore]:
    failures = [status for status in Status if status is not Status.OK]
    scores = [score(f"hit {index}", 0.9) for index in range(50)]
    scores += [score(f"miss {index}", 0.2) for index in range(40)]
    scores += [score(str(status), 0.0, status=status) for status in failures]
    return [*scores, score("unscored", None)]


def test_a_gallery_shows_hits_and_every_kind_of_failure() -> None:
    chosen = gallery.choose(mixed_scores(), count=24, outcome=outcome)
    outcomes = [outcome(one) for one in chosen]
    assert len(chosen) == 24
    assert outcomes.count(Outcome.HIT) == 12
    assert set(outcomes) == set(Outcome)


def test_a_gallery_depends_on_ids_alone() -> None:
    scores = mixed_scores()
    chosen = gallery.choose(scores, count=24, outcome=outcome)
    assert gallery.choose(scores[::-1], count=24, outcome=outcome) == chosen
    # Other samples beside them do not move those that stay.
    hits = [one for one in scores if outcome(one) is Outcome.HIT]
    fewer = gallery.choose(hits, count=24, outcome=outcome)
    assert {one.sample.id for one in chosen if outcome(one) is Outcome.HIT} <= {
        one.sample.id for one in fewer
    }


@pytest.mark.parametrize(
    ("num_hits", "num_misses", "shown_hits"), [(50, 3, 7), (2, 50, 2), (50, 50, 5), (3, 2, 3)]
)
def test_a_gallery_fills_up_with_what_there_is(
    num_hits: int, num_misses: int, shown_hits: int
) -> None:
    scores = [score(f"hit {index}", 0.9) for index in range(num_hits)]
    scores += [score(f"miss {index}", 0.1) for index in range(num_misses)]
    chosen = gallery.choose(scores, count=10, outcome=outcome)
    assert len(chosen) == min(10, len(scores))
    assert sum(outcome(one) is Outcome.HIT for one in chosen) == shown_hits


@pytest.mark.parametrize(
    ("size", "kind", "embedded"),
    [((112, 112), "PNG", (112, 112)), ((1600, 800), "JPEG", (560, 280))],
)
def test_large_images_are_embedded_small(
    tmp_path: Path, size: tuple[int, int], kind: str, embedded: tuple[int, int]
) -> None:
    Image.new("RGB", size, "teal").save(tmp_path / "a.png")
    image = ImageRef(str(tmp_path / "a.png"), *size)
    drawn = gallery.draw(score("a", 0.9, images=(image,), targets=()), outcome=Outcome.HIT)
    (picture,) = drawn.pictures
    assert picture.uri is not None and picture.problem is None
    decoded = Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2])))
    assert (decoded.format, decoded.size) == (kind, embedded)
    assert (picture.width, picture.height) == size


# ---- curves ------------------------------------------------------------------------------------


def test_curves_show_what_the_metrics_hold() -> None:
    rows = [
        {"step": 1, "reward/total": 0.5, "difficulty/easy": 0.2, "difficulty/medium": 0.3},
        {"step": 2, "validation/acc@0.5": 0.4, "difficulty/hard": 0.5},
        {"step": 3, "reward/total": 0.7, "loss": 0.1},
    ]
    assert [curve.title for curve in draw_curves(rows)] == ["Reward", "Validation", "Loss"]
    whole = {"step": 4, "difficulty/easy": 0.2, "difficulty/medium": 0.3, "difficulty/hard": 0.5}
    curves = {curve.title: curve for curve in draw_curves([*rows, whole, whole | {"step": 5}])}
    assert list(curves) == ["Reward", "Difficulty", "Validation", "Loss"]
    for share in ("easy", "medium", "hard"):
        assert f">{share}</text>" in curves["Difficulty"].svg
    assert draw_curves([{"step": 1, "other/metric": 1.0}]) == []


def test_long_curves_are_smoothed_over_their_records() -> None:
    def num_lines(length: int) -> int:
        (curve,) = draw_curves([{"step": step, "loss": step % 7} for step in range(length)])
        return curve.svg.count("stroke: #2f81c7")

    assert num_lines(200) == 2  # as recorded, and smoothed
    assert num_lines(20) == 1 + 20 + 1  # the line, its markers, and the markers' definition


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "metrics.jsonl:2: no JSON"),
        ("[1]", "metrics.jsonl:2: expected an object with a 'step'"),
        ('{"loss": 1}', "metrics.jsonl:2: expected an object with a 'step'"),
        ('{"step": 2, "loss": "1"}', "metrics.jsonl:2: 'loss' is '1', expected a number"),
    ],
)
def test_a_bad_metrics_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 1}}\n{line}\n')
    with pytest.raises(DataError, match=re.escape(message)):
        read_metrics(tmp_path)


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics.jsonl: no such file; expected a run directory"):
        read_metrics(tmp_path)


def test_a_report_says_what_became_of_the_detectors_boxes(tmp_path: Path) -> None:
    frame = ImageRef("a.png", 64, 48).frame
    right = (Detection(0, Box(8, 8, 40, 40, frame)),)
    scores = [
        score("a", 0.9, tool_results=(Detection(0, Box(0, 0, 4, 4, frame)), *right)),
        score("b", 0.9, tool_results=()),
        score("c", 0.9),
    ]
    page = report_page(tmp_path, scores)
    found = json.loads((tmp_path / "report.json").read_text())["refinement"]
    assert (found["n"], found["tool_accuracy"], found["ccr"]) == (2, 0.5, 1.0)
    assert "| ccr | 100.0 | 100.0 |" in (tmp_path / "report.md").read_text()
    first = json.loads((tmp_path / "report.json").read_text())["refinement_top1"]
    assert (first["n"], first["tool_accuracy"], first["ccr"]) == (2, 0.0, 1.0)
    cells = '<td class="num">50.0</td><td class="num">0.0</td>'
    assert f'<th scope="row">tool accuracy</th>{cells}' in page
    assert build_report(scores[2:], run=run_for(scores[2:]))["refinement"] is None
