"""The report: its figures, its page, its gallery and its curves."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
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
from reground.evaluation.reporting.pages import percent
from reground.evaluation.reporting.report import (
    build_report,
    comparison,
    comparison_markdown,
    write_report,
)
from reground.evaluation.reporting.tools import MEASURES, NOTE, OUTCOMES
from reground.evaluation.scoring.metrics import Outcome, outcome
from reground.evaluation.scoring.refinement import ToolOutcome
from reground.grounding.answers import Status
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target
from reground.protocols.choice import PromptUse

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
        iou=None if status is Status.ABSTAINED else iou,
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
    assert fixed | {"tasks", "slices", "authors", "macro@0.5", "run"} <= report.keys()
    for group in (*report["tasks"].values(), *report["slices"]["kind"].values()):
        assert fixed | {"acc@0.5_interval"} <= group.keys()
    assert (report["n"], report["errors"], report["status"]["unparsable"]) == (3, 1, 1)
    assert report["acc@0.5"] == pytest.approx(1 / 3)
    assert report["macro@0.5"] == pytest.approx(1 / 4)
    assert report["slices"]["kind"]["relation"]["acc@0.5"] == 1
    for name in ("report.md", "report.html"):
        assert "by kind" in (tmp_path / name).read_text("utf-8").lower()
    assert report["run"]["prompts"]["think"]["sha256"] == "0" * 64


def test_the_authors_rule_is_told_beside_ours(tmp_path: Path) -> None:
    """The first box anywhere, reasoning included, by UniVG-R1's zero-shot rule; ours is strict."""
    found = replace(score("a", 0.0), text="<think>(125,167),(625,833) it is.</think>")
    two = score("b", 0.9)
    two = replace(two, sample=replace(two.sample, targets=two.sample.targets * 2))
    scores = [found, replace(score("c", 0.9), text="no box"), two, score("d", None)]
    run = run_for(scores, authors_scorer="univg_r1_zero_shot")
    write_scores(tmp_path, scores, run=run)
    report = write_report(tmp_path)
    own = report["authors"]
    assert (report["n"], report["acc@0.5"]) == (3, pytest.approx(2 / 3))
    assert (own["n"], own["errors"], own["left_out"], own["acc@0.5"]) == (2, 1, 1, 0.5)
    assert own["acc@0.5_interval"] == [0.0, 1.0]
    assert own["mean_iou"] == pytest.approx(0.5, abs=0.01)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text("utf-8")
        assert "univg_r1_zero_shot" in text and "cannot score 1 more" in text
    assert build_report(scores, run=replace(run, authors_scorer=None))["authors"] is None
    assert build_report(scores, run=replace(run, scorer="mig_bench"))["authors"] is None


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
    other = score("c", 0.9, strata={ATTACK: "other"})
    named = Detection(0, Box(8, 8, 40, 40, FRAME), label=ATTACK)
    hostile = replace(hostile, sample=replace(hostile.sample, tool_results=(named,)))
    hostile = replace(hostile, text=ATTACK, think=ATTACK, rethink=ATTACK)
    failed = SampleScore(replace(score("b", 0.1).sample, task="other"), error=ATTACK)
    scores = [hostile, failed, other]
    run = run_for(
        scores, model=ATTACK, data=ATTACK, prompts={"think": PromptUse(ATTACK, "", "flag")}
    )
    write_scores(tmp_path, scores, run=run)
    write_report(tmp_path)
    page = _Links((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.elements.count("script") == 1  # our own
    shown = sum(ATTACK in text for text in page.texts)
    # Heading, title, run, task, stratum, question, thoughts, detector's label, answer, error.
    assert shown >= 10


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
    scores = [score("a", 0.9, strata={"a|b": "c|\nd"}), score("b", 0.1, strata={"a|b": "e"})]
    write_scores(tmp_path, scores, run=run_for(scores))
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**Acc@0.5 50.0 ± 50.0 %**" in text
    assert "## By a\\|b" in text
    row = next(line for line in text.splitlines() if "c\\| d" in line)
    assert row.replace("\\|", "").count("|") == 9


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
        ("{", "metrics.jsonl:2: not JSON"),
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


# ---- a detector's boxes ------------------------------------------------------------------------

FRAME = ImageRef("a.png", 64, 48).frame
RIGHT = Detection(0, Box(8, 8, 40, 40, FRAME))  # the true box
WRONG = Detection(0, Box(0, 0, 4, 4, FRAME))


def outcome_scores(count: int = 12) -> list[SampleScore]:
    """``count`` samples of every outcome of a detector's box."""
    kinds = {
        "corrected": (0.9, WRONG),
        "followed": (1.0, RIGHT),
        "worsened": (0.2, RIGHT),
        "inherited": (0.0, WRONG),
        "still wrong": (0.2, WRONG),
    }
    return [
        score(f"{kind} {index}", iou, tool_results=(tool,))
        for kind, (iou, tool) in kinds.items()
        for index in range(count)
    ]


def words(page: str) -> str:
    """What a reader sees of a page, one space between words."""
    return " ".join(" ".join(_Links(page).texts).split())


def test_a_report_says_what_became_of_the_detectors_boxes(tmp_path: Path) -> None:
    scores = [
        score("a", 0.9, tool_results=(WRONG, RIGHT)),
        score("b", 0.9, tool_results=()),
        score("c", 0.9),
    ]
    page = words(report_page(tmp_path, scores))
    found = json.loads((tmp_path / "report.json").read_text())["refinement"]
    assert (found["n"], found["tool_accuracy"], found["ccr"]) == (2, 0.5, 1.0)
    assert (found["ccr_n"], found["ccr_stderr"]) == (1, None)
    text = (tmp_path / "report.md").read_text()
    assert "| CCR | 100.0 | 1 | 100.0 ± 0.0 | 2 | critical correction rate:" in text
    first = json.loads((tmp_path / "report.json").read_text())["refinement_top1"]
    assert (first["n"], first["tool_accuracy"], first["ccr"]) == (2, 0.0, 1.0)
    assert "tool only samples whose tool box is right 50.0 ± 50.0 2 0.0 ± 0.0 2" in page
    assert build_report(scores[2:], run=run_for(scores[2:]))["refinement"] is None


def test_every_figure_of_the_detectors_boxes_has_words(tmp_path: Path) -> None:
    scores = outcome_scores()
    shown = words(report_page(tmp_path, scores)), (tmp_path / "report.md").read_text()
    found = json.loads((tmp_path / "report.json").read_text())["refinement"]
    named = {own.key for own in MEASURES}
    assert {key for key in found if f"{key}_n" in found} == named
    for text in shown:
        assert not [key for key in named if "_" in key and key in text]
        assert all(own.name in text and own.meaning in text for own in MEASURES)
        assert all(meaning in text for meaning in OUTCOMES.values())
        assert "first box" not in text.replace(NOTE, "")  # every tool gave one
    assert found["outcomes"] == dict.fromkeys(ToolOutcome, 12)
    low, high = found["accuracy_difference_interval"]
    assert low < found["accuracy_difference"] == 0 < high
    for text in shown:
        assert f"{100 * low:.1f} to {100 * high:.1f}" in text


def test_tasks_show_the_tool_alone_the_final_boxes_and_the_difference(tmp_path: Path) -> None:
    asked = outcome_scores()
    scores = asked[:24] + [replace(one, sample=replace(one.sample, task="b")) for one in asked[24:]]
    scores += [score("c", 0.9, task="none")]
    page = words(report_page(tmp_path, scores))
    report = json.loads((tmp_path / "report.json").read_text())
    tasks = {name: row["refinement"] for name, row in report["tasks"].items()}
    assert (tasks["find"]["n"], tasks["b"]["n"], tasks["none"]) == (24, 36, None)
    assert tasks["find"]["accuracy_difference"] == 0.5
    low, high = tasks["find"]["accuracy_difference_interval"]
    assert 0.2 < low < 0.5 < high < 0.8
    lines = (tmp_path / "report.md").read_text("utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| find |"))
    assert row.endswith("| 50.0 ± 10.4 | 100.0 ± 0.0 | 50.0 ± 10.4 |")
    bare = next(line for line in lines if line.startswith("| none |"))
    assert bare.endswith(3 * f" {percent(None)} |")
    heads = [line for line in lines if "| Acc" in line]
    assert len(heads) == 2 and all(head.endswith("| final | difference |") for head in heads)
    assert row.count("|") == heads[0].count("|")
    assert "12 50.0 ± 10.4 100.0 ± 0.0 50.0 ± 10.4 none" in page


def test_a_gallery_shows_every_outcome_of_a_detectors_box(tmp_path: Path) -> None:
    failed = score("x", 0.0, status=Status.UNPARSABLE, tool_results=(RIGHT,))
    scores = [*outcome_scores(), failed, score("y", None, tool_results=(RIGHT,)), score("z", 0.9)]
    page = report_page(tmp_path, scores, num_examples=18)
    kinds = re.findall(r'data-kinds="([a-z_]+) ([a-z_]*)"', page)
    assert len(kinds) == 18 and len(set(kinds)) == 8
    expected = Counter(tool for _, tool in kinds if tool)
    assert set(expected) == set(ToolOutcome) and min(expected.values()) >= 3
    buttons = re.findall(r'<button type="button" data-show="(\w+)".*<b>(\d+)</b>', page)
    assert {name: int(count) for name, count in buttons if name in expected} == expected
    assert "corrected first" in page


def test_a_card_shows_the_detectors_boxes_and_both_thoughts(tmp_path: Path) -> None:
    named = replace(RIGHT, label="cup", score=0.875)
    one = replace(score("a", 0.5, tool_results=(WRONG, named)), think="by the jug", rethink="it is")
    page = report_page(tmp_path, [one])
    assert '<rect class="tool" x="8.0" y="8.0" width="32.0" height="32.0"/>' in page
    assert page.count('<rect class="tool"') == 2
    assert re.findall(r"<text.*>(.*)</text>", page) == ["cup 0.88"]
    shown = words(page)
    order = (
        "first thought by the jug",
        "detector box, IoU 0.00 cup 0.88, IoU 1.00",
        "rethought it is",
    )
    assert " ".join(order) in shown
    assert "IoU 0.50, tool 1.00" in shown and "detector's box answer" in shown


def test_boxes_that_cannot_be_drawn_are_said(tmp_path: Path) -> None:
    boxes = [(9, 9, 9, 9), (40, 40, 8, 8), (-9, -9, -1, -1), (-9, -9, 30, 30)]
    tools = tuple(Detection(0, Box(*box, FRAME)) for box in boxes)
    page = report_page(
        tmp_path, [score("a", 0.9, tool_results=tools), score("b", 0.9, tool_results=())]
    )
    assert page.count('<rect class="tool"') == 1
    assert page.count("(no area, not drawn)") == 2
    assert page.count("(outside the image, not drawn)") == 1
    assert "detector: nothing found" in words(page)


def test_a_detectors_boxes_stand_on_their_own_images(tmp_path: Path) -> None:
    images = (ImageRef("first.png", 30, 20), ImageRef("second.png", 64, 48))
    tools = (Detection(0, Box(1, 1, 9, 9, images[0].frame)), replace(RIGHT, image=1))
    asked = {"images": images, "targets": (replace(score("b", 1).sample.targets[0], image=1),)}
    page = report_page(tmp_path, [score("a", 0.9, **asked, target_image=1, tool_results=tools)])
    first, second = re.findall(r'<svg viewBox="0 0 (?:30 20|64 48)".*?</svg>', page, re.DOTALL)
    assert 'class="tool" x="1.0"' in first and 'class="truth"' not in first
    assert [own.count('<rect class="tool"') for own in (first, second)] == [1, 1]
    assert 'class="tool" x="8.0"' in second and 'class="predicted"' in second
    assert "box in image 1 box in image 2, IoU 1.00" in words(page)


def test_a_page_without_a_detector_says_nothing_of_one(tmp_path: Path) -> None:
    page = report_page(tmp_path, [replace(score("a", 0.9), think="hm")])
    body = page.partition("</style>")[2]
    assert not [word for word in ("detector", "tool only", 'class="tool', "said") if word in body]
    assert "tool" not in (tmp_path / "report.md").read_text()
    tasks = json.loads((tmp_path / "report.json").read_text())["tasks"]
    assert tasks["find"]["refinement"] is None


def test_a_report_where_nothing_was_answered_counts_the_detectors_boxes(tmp_path: Path) -> None:
    page = words(report_page(tmp_path, [score("a", None, tool_results=(RIGHT,))]))
    found = json.loads((tmp_path / "report.json").read_text())["refinement"]
    assert (found["n"], found["unscored"], found["accuracy"], found["ccr"]) == (1, 1, None, None)
    assert not any(found["outcomes"].values())
    assert "boxes: 1, of which 1 never answered" in page


def test_models_that_never_called_or_got_nothing_are_counted(tmp_path: Path) -> None:
    scores = [
        replace(score("a", 0.9, tool_results=(RIGHT,)), finish="no_call"),
        replace(score("b", 0.9, tool_results=(RIGHT,)), finish="stop"),
        replace(score("c", 0.9), finish="tool_failed"),
    ]
    page = words(report_page(tmp_path, scores))
    found = json.loads((tmp_path / "report.json").read_text())["refinement"]
    assert (found["n"], found["no_call"], found["tool_failed"]) == (2, 1, 1)
    said = "In 1 the model never called for the result. Besides, 1 called and got none."
    assert said in page
    assert said in (tmp_path / "report.md").read_text()
