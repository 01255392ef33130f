"""Runs side by side: pairing and its refusals, paired figures, tables and the page."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from made import run_of
from reground.data.benchmarks import MIG_BENCH_COLUMNS
from reground.errors import DataError
from reground.evaluation.records import SampleScore, write_scores
from reground.evaluation.reporting.compare import Comparison, compare, mcnemar
from reground.evaluation.reporting.compare_pages import contrasts, write_comparison
from reground.evaluation.reporting.pairing import Run, read_runs
from reground.evaluation.reporting.report import build_report
from reground.evaluation.reporting.table import make_table, to_csv, to_latex, to_markdown
from reground.evaluation.scoring.score import score_log
from reground.grounding.answers import Status
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target, digest

OUTPUTS = Path(__file__).parents[1] / "../shared/data/mig_bench/outputs"
INFO = run_of([])
FRAME = ImageRef("x.png", 64, 48).frame
ATTACK = "<script>alert('x')</script>\"'&"


def sample(name: str, *, task: str = "find", image: str | None = None) -> Sample:
    ref = ImageRef(image or f"{name}.png", 64, 48)
    return Sample(name, (ref,), "the cup", (Target(0, Box(8, 8, 40, 40, ref.frame)),), task)


def scored(of: Sample, iou: float | None) -> SampleScore:
    """A score with the given IoU; None stands for a sample that was never answered."""
    if iou is None:
        return SampleScore(of, error="no such image")
    box = (8.0, 8.0, 40.0, 24.0)
    return SampleScore(
        of, status=Status.OK, iou=iou, predicted=(box,), num_tokens=9, finish="stop", text="here"
    )


def run(name: str, ious: Sequence[float | None], *, samples: Sequence[Sample] = ()) -> Run:
    samples = samples or [sample(f"s{index}") for index in range(len(ious))]
    rows = [scored(one, iou) for one, iou in zip(samples, ious, strict=True)]
    return Run(name, INFO, tuple(rows))


def write(folder: Path, rows: Sequence[SampleScore], **changes: Any) -> Path:
    write_scores(folder, rows, run=replace(INFO, **changes))
    return folder


# ---- paired figures ----------------------------------------------------------------------------


def test_paired_figures_by_hand() -> None:
    samples = [sample(name, image=f"{name[0]}.png") for name in ("a1", "a2", "b1", "c1")]
    one = run("one", [0.9, 0.9, 0.2, 0.6], samples=samples)
    two = run("two", [0.9, 0.1, 0.7, 0.3], samples=samples)
    (pair,) = compare([one, two]).pairs
    own = pair.overall
    assert (pair.a, pair.b, own.n, own.images) == ("one", "two", 4, 3)
    assert (own.only_a, own.only_b, own.mcnemar) == (2, 1, 1.0)
    assert (own.accuracy.a.value, own.accuracy.b.value) == (0.75, 0.5)
    # Differences 0, -1, 1, -1 with mean -1/4; residual sums: a -1/2, b 5/4, c -3/4.
    assert own.accuracy.difference.value == -0.25
    variance = 3 / 2 * (0.25 + 25 / 16 + 9 / 16) / 4**2
    assert own.accuracy.difference.stderr == pytest.approx(math.sqrt(variance))
    assert own.accuracy.interval is not None
    assert own.accuracy.interval.low == -1.0 and own.accuracy.interval.high > 0
    assert own.mean_iou.difference.value == pytest.approx((-0.8 + 0.5 - 0.3) / 4)


def test_what_both_find_hard_does_not_blur_their_difference() -> None:
    hard = [0.0, 0.9] * 20
    better = [0.9, *hard[1:]]
    (pair,) = compare([run("a", hard), run("b", better)]).pairs
    own = pair.overall.accuracy
    assert own.difference.value == pytest.approx(1 / 40)
    assert (own.difference.stderr or 1) < 0.4 * (own.a.stderr or 0)


@pytest.mark.parametrize("same", [[0.9, 0.1, 0.4], [0.0, 0.0, 0.0]])
def test_a_run_against_its_copy_differs_in_nothing(same: list[float]) -> None:
    (pair,) = compare([run("a", same), run("b", same)]).pairs
    assert (pair.overall.only_a, pair.overall.only_b, pair.overall.mcnemar) == (0, 0, 1.0)
    assert pair.overall.accuracy.interval == pair.overall.mean_iou.interval == (0.0, 0.0)
    assert pair.overall.accuracy.difference.stderr == 0.0


def test_tasks_and_their_mean_are_paired_too() -> None:
    samples = [sample(f"{task}{i}", task=task) for task in ("rec", "diff") for i in range(2)]
    one = run("one", [0.9, 0.9, 0.1, 0.1], samples=samples)
    two = run("two", [0.9, 0.1, 0.9, 0.9], samples=samples)
    comparison = compare([one, two])
    (pair,) = comparison.pairs
    assert list(comparison.tasks) == list(pair.tasks) == ["diff", "rec"]  # MIG-Bench's first
    gains = {task: own.accuracy.difference.value for task, own in pair.tasks.items()}
    assert gains == {"diff": 1.0, "rec": -0.5}
    assert pair.macro.difference.value == pair.overall.accuracy.difference.value == 0.25
    assert pair.macro.interval is not None


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_closed_form(only_a: int, only_b: int) -> None:
    total = only_a + only_b
    tail = sum(math.comb(total, count) for count in range(min(only_a, only_b) + 1))
    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail / 2**total))


IOUS = st.one_of(st.none(), st.floats(0, 1))


@given(st.data())
def test_the_order_of_rows_changes_no_figure(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 8))
    samples = [
        sample(f"s{index}", task=data.draw(st.sampled_from(["rec", "diff"])), image=f"{index % 5}")
        for index in range(count)
    ]
    both = [[data.draw(IOUS) for _ in samples] for _ in range(2)]
    both[0][0] = both[1][0] = 0.5  # one sample at least is answered by both
    order = data.draw(st.permutations(range(count)))
    reports, comparisons = [], []
    for places in (range(count), order):
        rows = [[scored(samples[i], ious[i]) for i in places] for ious in both]
        reports.append(json.dumps(build_report(rows[0], run=INFO)))
        runs = [Run(name, INFO, _sorted(own)) for name, own in zip("ab", rows, strict=True)]
        comparisons.append(compare(runs))
    assert reports[0] == reports[1]
    assert comparisons[0] == comparisons[1]


def _sorted(rows: Sequence[SampleScore]) -> tuple[SampleScore, ...]:
    return tuple(sorted(rows, key=lambda row: row.sample.id))


def test_files_in_another_order_give_the_same_files(tmp_path: Path) -> None:
    rows = [
        scored(sample(f"s{index}", task="ab"[index % 2]), 0.3 * (index % 4)) for index in range(9)
    ]
    other = [replace(row, iou=1 - (row.iou or 0)) for row in rows]
    written = []
    for name, step in (("forth", 1), ("back", -1)):
        a = write(tmp_path / name / "a", rows[::step])
        b = write(tmp_path / name / "b", other[::-step])
        write_comparison(read_runs([a, b]), out=tmp_path / name / "out")
        written.append((tmp_path / name / "out" / "compare.json").read_bytes())
    assert written[0] == written[1]


# ---- what is left out and what is refused ------------------------------------------------------


def test_unanswered_samples_are_left_out_of_all_and_counted() -> None:
    one = run("one", [0.9, None, 0.9, 0.1])
    two = run("two", [0.9, 0.9, None, 0.9])
    three = run("three", [0.1, 0.9, None, 0.9])
    comparison = compare([one, two, three])
    assert (comparison.n, comparison.left_out) == (2, 2)
    assert [row.unscored for row in comparison.rows] == [1, 1, 1]
    assert [row.accuracy for row in comparison.rows] == [0.5, 1.0, 0.5]
    assert "Left out: 2 samples that not every run answered" in make_table(comparison).note
    with pytest.raises(DataError, match="no sample was answered by every run"):
        compare([run("a", [None, 0.1]), run("b", [0.1, None])])


Change = Callable[[list[SampleScore]], list[SampleScore]]


def _changed(**changes: Any) -> Change:
    return lambda rows: [replace(rows[0], sample=replace(rows[0].sample, **changes)), *rows[1:]]


FRAME = sample("x").images[0].frame


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], r"different samples: 1 only in one \('s0'\), 0 only in two; eval"),
        (
            lambda rows: [*rows, *(scored(sample(f"z{i}"), 0.1) for i in range(5))],
            r"0 only in one, 5 only in two \('z0', 'z1', 'z2', …\)",
        ),
        (_changed(question="the jug"), r"1 of 4 .* 's0' in its question \('the cup' and 'the jug'"),
        (
            _changed(targets=(Target(0, Box(8, 8, 40, 41, FRAME)),)),
            r"another version of the benchmark: 1 of 4 samples differ, first 's0' in its targets ",
        ),
        (_changed(targets=()), r"in its targets .* and \[\]"),
        (_changed(task="track"), r"in its task \('find' and 'track'\)"),
    ],
)
def test_other_samples_or_another_truth_are_refused(
    tmp_path: Path, change: Change, message: str
) -> None:
    rows = [scored(sample(f"s{index}"), 0.9) for index in range(4)]
    a, b = write(tmp_path / "one", rows), write(tmp_path / "two", change(rows))
    with pytest.raises(DataError, match=message):
        read_runs([a, b])


def test_a_refusal_shows_both_hashes(tmp_path: Path) -> None:
    rows = [scored(sample(f"s{index}"), 0.9) for index in range(4)]
    changed = _changed(question="the jug")(rows)
    a, b = write(tmp_path / "one", rows), write(tmp_path / "two", changed)
    digests = [digest(row.sample for row in own) for own in (rows, changed)]
    with pytest.raises(DataError, match=f"one {digests[0]}, two {digests[1]}"):
        read_runs([a, b])


def test_a_digest_is_of_the_truth_alone() -> None:
    samples = [sample("a"), sample("b")]
    moved = [replace(one, images=(ImageRef("/far/x.jpg", 64, 48),)) for one in samples]
    noted = [replace(one, think="because", strata={"kind": "x"}) for one in samples]
    assert digest(samples) == digest(moved) == digest(noted[::-1])
    assert digest(samples) != digest([sample("a"), sample("c")])
    assert re.fullmatch("[0-9a-f]{64}", digest(samples))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "vlm_r1"}, r"one by reground \(IoU > t\) and two by vlm_r1 \(IoU > t\)"),
        ({"hit": ">="}, r"one by reground \(IoU > t\) and two by reground \(IoU >= t\)"),
    ],
)
def test_different_rules_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rows = [scored(sample("s"), 0.9)]
    folders = [write(tmp_path / "one", rows), write(tmp_path / "two", rows, **changes)]
    with pytest.raises(DataError, match=message):
        read_runs(folders)


def test_one_folder_or_the_same_twice_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", [scored(sample("s"), 0.9)])
    for folders in ([folder], [folder, tmp_path / "x" / ".." / "one"]):
        with pytest.raises(DataError, match="expected two or more different folders"):
            read_runs(folders)


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    rows = [scored(sample("s"), 0.9)]
    folders = [write(tmp_path / name / "scores", rows) for name in ("a", "b")]
    assert [own.name for own in read_runs(folders)] == [str(folder) for folder in folders]


# ---- tables ------------------------------------------------------------------------------------


def of_tasks(tasks: Mapping[str, Sequence[Sequence[float]]]) -> Comparison:
    """A comparison of runs a, b, ... whose IoUs each task lists run by run."""
    samples, ious = [], [[] for _ in next(iter(tasks.values()))]
    for task, by_run in tasks.items():
        samples += [sample(f"{task}{index}", task=task) for index in range(len(by_run[0]))]
        for own, new in zip(ious, by_run, strict=True):
            own += new
    names = "abcdef"[: len(ious)]
    return compare([run(n, own, samples=samples) for n, own in zip(names, ious, strict=True)])


def test_columns_stand_in_the_papers_order_with_its_names() -> None:
    table = make_table(of_tasks({task: [[0.9], [0.1]] for task in sorted(MIG_BENCH_COLUMNS)}))
    expected = "Static Robust Common OT MV Region Refer GG Reason Co-Re AVG"
    assert " ".join(table.columns) == expected


def test_the_best_of_each_column_is_marked() -> None:
    comparison = of_tasks(
        {"diff": [[0.9, 0.9], [0.9, 0.9]], "rec": [[0.1, 0.1, 0.1], [0.9, 0.1, 0.1]]}
    )
    assert to_markdown(make_table(comparison)) == (
        "|   |     Static |       rec |       AVG |\n"
        "|---|-----------:|----------:|----------:|\n"
        "| a | **100.00** |      0.00 |     50.00 |\n"
        "| b | **100.00** | **33.33** | **66.67** |\n"
    )
    assert to_csv(make_table(comparison)) == (
        "run,Static,rec,AVG\na,100.00,0.00,50.00\nb,100.00,33.33,66.67\n"
    )


def test_one_task_needs_no_mean_over_tasks() -> None:
    table = make_table(of_tasks({"rec": [[0.9], [0.1]]}))
    assert table.columns == ("rec",)
    assert "AVG" not in table.note


ODD = 'a_b & 50% {x}\\y\n#1, $2 ~^<"|'


def odd_runs() -> list[Run]:
    return [
        replace(run("x", [0.9, None], samples=[sample("s", task=ODD), sample("t")]), name=ODD),
        run("b", [0.1, 0.9], samples=[sample("s", task=ODD), sample("t")]),
    ]


def test_latex_prints_odd_names_as_they_stand() -> None:
    text = to_latex(make_table(compare(odd_runs())))
    escaped = (
        r"a\_b \& 50\% \{x\}\textbackslash{}y \#1, \$2 \textasciitilde{}\textasciicircum{}"
        r'\textless{}"\textbar{}'
    )
    assert f" & {escaped} \\\\\n" in text  # the column's name
    assert f"\n{escaped} & \\textbf{{100.00}} \\\\\n" in text
    rows = [line for line in text.splitlines() if not line.startswith("%")]
    assert rows[0] == r"\begin{tabular}{lr}" and rows[-1] == r"\end{tabular}"
    assert [rows[i] for i in (1, 3, 6)] == ["\\toprule", "\\midrule", "\\bottomrule"]


def test_csv_and_markdown_keep_odd_names_in_one_cell() -> None:
    table = make_table(compare(odd_runs()))
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert rows == [["run", ODD], [ODD, "100.00"], ["b", "0.00"]]
    lines = to_markdown(table).splitlines()
    assert [re.sub(r"\\\|", "", line).count("|") for line in lines] == [3] * 4


# ---- files and page ----------------------------------------------------------------------------


def test_a_comparison_writes_all_its_files(tmp_path: Path) -> None:
    runs = [run("a", [0.9, 0.1, 0.6]), run("b", [0.9, 0.9, 0.1]), run("c", [0.9, 0.9, 0.9])]
    text = write_comparison(runs, out=tmp_path / "out")
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").iterdir()}
    assert {*written} == {
        "compare.json",
        "compare.md",
        "table.csv",
        "table.html",
        "table.md",
        "table.tex",
    }
    assert written["compare.md"] == text
    assert "A is a, B is b" in text and "A is a, B is c" in text
    found = json.loads(written["compare.json"])
    assert found == json.loads(json.dumps(dataclasses.asdict(compare(runs))))
    own = found["pairs"][1]["overall"]
    assert (own["n"], own["only_a"], own["only_b"], own["mcnemar"]) == (3, 0, 1, 1.0)
    assert own["accuracy"]["difference"]["value"] == pytest.approx(1 / 3)
    assert own["accuracy"]["interval"] == [0.0, 1.0]


def test_the_page_escapes_what_models_and_users_wrote(tmp_path: Path) -> None:
    asked = replace(sample(ATTACK, task=ATTACK), question=ATTACK)
    ours = replace(scored(asked, 0.9), text=ATTACK)
    info = replace(INFO, model=ATTACK, data=ATTACK)
    runs = [Run(ATTACK, info, (ours,)), Run("b", info, (replace(ours, iou=0.1),))]
    write_comparison(runs, out=tmp_path)
    page = (tmp_path / "table.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 9


def test_the_page_draws_samples_on_which_runs_differ(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "s1.png")
    samples = [sample(f"s{index}", image=str(tmp_path / f"s{index}.png")) for index in range(4)]
    runs = [
        run("a", [0.9, 0.9, 0.1, 0.1], samples=samples),
        run("b", [0.9, 0.1, 0.9, 0.1], samples=samples),
    ]
    assert {one.drawn.score.sample.id for one in contrasts(runs)} == {"s1", "s2"}
    write_comparison(runs, out=tmp_path)
    page = (tmp_path / "table.html").read_text("utf-8")
    assert page.count("<article") == 2
    assert page.count("data:image/png;base64,") == 1
    assert page.count("s2.png: no such image") == 1
    assert page.count('<rect class="truth"') == 2
    assert len(re.findall(r'<rect class="predicted"[^>]* style="stroke:#', page)) == 4
    assert not re.search(r"https?://|@import|url\((?!#)|<link", page)


def test_examples_show_every_combination_of_hits() -> None:
    ious = [0.1] * 40
    mixed = [0.9] * 37 + [0.1] * 3
    rare = [0.1] * 37 + [0.9] * 3
    chosen = contrasts([run("a", ious), run("b", mixed), run("c", rare)], count=6)
    assert [sum(one.replies[i].outcome == "hit" for one in chosen) for i in range(3)] == [0, 3, 3]


@pytest.mark.slow
@pytest.mark.skipif(not OUTPUTS.is_dir(), reason="needs the real data in ../shared/data")
def test_the_averages_of_mig_bench_stand_in_the_table(tmp_path: Path) -> None:
    for model, scorer in (("migician", "migician"), ("qwen2_vl", "mig_bench")):
        score_log(
            OUTPUTS / model, format_name="mig_bench_outputs", out=tmp_path / model, scorer=scorer
        )
    write_comparison(read_runs([tmp_path / "migician", tmp_path / "qwen2_vl"]), out=tmp_path)
    assert (tmp_path / "table.csv").read_text() == (
        "run,Static,Robust,Common,OT,MV,Region,Refer,GG,Reason,Co-Re,AVG\n"
        "migician,70.08,44.68,72.15,67.45,58.68,72.32,75.76,83.30,52.58,36.75,63.37\n"
        "qwen2_vl,31.06,35.11,42.45,14.36,9.38,14.88,27.27,63.92,46.39,15.38,30.02\n"
    )
    macro = json.loads((tmp_path / "compare.json").read_text())["pairs"][0]["macro"]
    assert macro["difference"]["value"] == pytest.approx(-0.3335, abs=1e-4)
    low, high = macro["interval"]
    assert low < -0.3335 < high and 0.03 < high - low < 0.06


def test_runs_with_a_detectors_boxes_show_what_they_made_of_them(tmp_path: Path) -> None:
    right, wrong = Box(8, 8, 40, 40, FRAME), Box(0, 0, 4, 4, FRAME)
    asked = [
        replace(sample(f"s{n}"), tool_results=(Detection(0, box),))
        for n, box in enumerate([right, wrong, wrong, right])
    ]
    alone = run("alone", [0.9, 0.2, 0.1, 0.6], samples=asked)
    piter = run("piter", [1.0, 0.8, 0.0, 1.0], samples=asked)
    text = write_comparison([alone, piter], out=tmp_path)
    lines = [line for line in text.splitlines() if line.startswith(("| alone", "| piter"))]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[-2:]]
    assert cells[0][:5] == ["alone", "4", "50.0", "50.0", "0.0"]
    assert cells[1][:5] == ["piter", "4", "50.0", "75.0", "50.0"]
    assert "What they made of the detector" in (tmp_path / "table.html").read_text()
    plain = write_comparison([run("a", [0.9]), run("b", [0.1])], out=tmp_path)
    assert "CCR" not in plain and "detector" not in (tmp_path / "table.html").read_text()


def test_a_run_whose_y_was_stretched_is_named() -> None:
    one, other = run("one", [0.9]), run("other", [0.2])
    one = replace(one, info=replace(one.info, scorer="mig_bench"))
    other = replace(other, info=replace(other.info, scorer="migician"))
    assert "Of other, y was stretched first" in make_table(compare([one, other])).note
    assert "stretched" not in make_table(compare([one, one])).note
