"""Published figures made again: what a plan says is missing, and what a verdict says of a run."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recipes import RECIPES, Recipe, derived

from driver import reground
from files import photo
from reground.cli.reproduce import command
from reground.data import benchmarks
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.evaluation.reproducing.memory import TOKENS, memory
from reground.evaluation.reproducing.plan import Plan
from reground.evaluation.reproducing.published import Entry, Figure, Table, entries, find, published
from reground.evaluation.reproducing.verdict import Verdict, verdicts
from reground.evaluation.scoring.peers import get_peer
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target
from reground.model.runtime import BATCH_TOKENS
from reground.protocols.families import get_family
from reground.protocols.published import published_prompts

ENTRIES = [*entries().values()]
every_row = pytest.mark.parametrize(
    "entry", ENTRIES, ids=lambda each: f"{each.name} {each.benchmark}"
)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty data folder, an empty cache of the hub, and no network."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a plan asked the network")

    monkeypatch.setenv("REGROUND_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"


@every_row
def test_every_row_has_a_plan_that_says_what_is_missing(
    entry: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    command(entry.name, entry.benchmark, dry_run=True)
    told = capsys.readouterr().out
    assert f"published {entry.figures[0].value} %" in told and " GiB of a GPU in bfloat16" in told
    assert f"missing: the data {benchmarks.data_folder()}/" in told
    own = entry.model.source
    assert f"missing: the model {own}\n" in told or f"serve {own} behind" in told
    with pytest.raises(ConfigError, match="things that this needs are missing, see above"):
        command(entry.name, entry.benchmark)


@every_row
def test_every_row_names_what_there_is(entry: Entry) -> None:
    asked, plan = entry.asked, Plan(entry=entry)
    assert plan.benchmark.name == entry.benchmark
    assert plan.protocol in get_family(entry.model.family).prompts
    assert asked.scorer is None or get_peer(asked.scorer)
    assert asked.pixels is None or asked.pixels[0] < asked.pixels[1]
    prompt = plan.authors_prompt
    assert (prompt is None) is (asked.prompt is None)
    assert prompt is None or prompt.protocol == plan.protocol
    tasks = [figure.task for figure in entry.figures if figure.task]
    assert set(tasks) <= {*plan.benchmark.tasks} and len(tasks) in (0, 10)


def test_the_tables_are_whole() -> None:
    for table in published().tables.values():
        columns = table.tasks or table.columns
        for key, row in table.rows.items():
            assert key in published().models
            assert len(row) == len(columns) + table.average
            if table.average:  # as the paper prints it, which rounds in its own way
                assert row[-1] == pytest.approx(sum(row[:-1]) / len(columns), abs=0.12)
    assert {"univg_r1", "vg_refiner", "migician", "qwen2_vl"} <= {e.name for e in ENTRIES}
    figures = {key: entry.figures[0].value for key, entry in entries().items()}
    assert figures["univg_r1", "mig_bench"] == 72.64
    assert figures["univg_r1", "reasonvos_grounding"] == 58.73
    assert figures["migician", "refcocog_umd_test"] == 87.80
    assert ("griffon_v2", "refcoco_val") not in figures


@pytest.mark.parametrize(
    ("name", "benchmark", "message"),
    [
        ("univg", "mig_bench", "did you mean 'univg_r1'"),
        ("univg_r1", "mig_benc", "did you mean 'mig_bench'"),
        ("griffon_v2", "refcoco_val", "with public weights"),
    ],
)
def test_an_unknown_row_is_corrected(name: str, benchmark: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(name, benchmark)


def missing(name: str, benchmark: str, **given: Any) -> str:
    plan = Plan(entry=find(name, benchmark), **given)
    return " | ".join(each.what for each in plan.missing())


def test_what_is_there_is_not_missing(alone: Path, tmp_path: Path) -> None:
    (alone / "zero_shot_evaluation/ReasonSeg").mkdir(parents=True)
    (alone / "zero_shot_evaluation/lisa_val.json").write_text("[]")
    snapshot = tmp_path / "hub/hub/models--GD-ML--UniVG-R1/snapshots/abc"
    snapshot.mkdir(parents=True)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Find $question")
    rows = ("univg_r1", "lisa_grounding_val")
    assert missing(*rows, prompt=str(prompt)) == "the model GD-ML/UniVG-R1"
    (snapshot / "config.json").write_text("{}")
    assert missing(*rows, prompt=str(prompt)) == ""
    assert missing(*rows).startswith("the prompt, AMAP-ML/UniVG-R1, eval/zero_shot/lisa")
    with pytest.raises(ConfigError, match="no such prompt file"):
        missing(*rows, prompt="absent.txt")


def test_images_and_a_tool_s_results_are_looked_for(alone: Path, tmp_path: Path) -> None:
    image = ImageRef(str(alone / "a.png"), 200, 100)
    other = ImageRef(str(alone / "b.png"), 200, 100)
    photo(alone / "a.png")
    target = Target(0, Box(1, 2, 30, 40, image.frame))
    rows = [
        Sample(f"s{n}", (ref,), "cup", (target,), "rec") for n, ref in enumerate((image, other))
    ]
    save_dataset(alone / "refcoco+_testA.jsonl", rows)
    given = {"model": str(tmp_path), "prompt": "vg_refiner"}
    told = missing("vg_refiner", "refcoco+_testA", **given)
    assert told.startswith(f"1 of 2 images, from {other.path} | a tool's results, for the source")
    photo(alone / "b.png")
    told = missing("vg_refiner", "refcoco+_testA", tool=str(tmp_path / "evf.jsonl"), **given)
    assert told == f"the tool's results {tmp_path / 'evf.jsonl'}"
    assert missing("vg_refiner", "refcoco+_testA", tool="precomputed", **given) == ""


def test_memory_by_hand() -> None:
    assert TOKENS == BATCH_TOKENS
    size = published().sizes["qwen2_vl_7b"]
    found = memory(size, images=6, most_pixels=401_408)
    gib = 2**30
    assert found.weights == pytest.approx(8.29e9 * 2 / gib)
    assert found.kv == pytest.approx(2 * 28 * 4 * 128 * 2 * 65_536 / gib)
    assert found.vision == pytest.approx(6 * 2048 * 12 * 1280 * 2 / gib)  # 2,048 patches each
    assert found.total == pytest.approx(found.weights + found.kv + found.vision + 1)
    twice = memory(size, images=6, most_pixels=401_408, dtype="float32")
    assert twice.total - 1 == pytest.approx(2 * (found.total - 1))


@pytest.mark.parametrize(
    ("value", "decimals", "interval", "words"),
    [
        (64.0, 2, (60.0, 70.0), "agrees"),
        (64.0, 2, (64.004, 70.0), "agrees"),
        (64.0, 2, (64.006, 70.0), "differs by +1.00 points"),
        (64.0, 1, (64.04, 70.0), "agrees"),
        (66.0, 2, (60.0, 65.0), "differs by -1.00 points"),
        (66.0, 2, None, "-1.00 points; no interval from one image"),
    ],
)
def test_a_verdict_looks_at_the_interval(
    value: float, decimals: int, interval: tuple[float, float] | None, words: str
) -> None:
    figure = Figure(value, Table("t", "paper", ("b",), {}, decimals=decimals))
    assert Verdict(figure, 65.0, interval).words == words
    assert Verdict(figure, None, None).words == "nothing measured"


def test_figures_are_looked_up_where_they_belong() -> None:
    """The authors' rule where there is one; a macro mean, tasks, NSRI from its standard error."""
    mean = {"acc@0.5": 0.5, "macro@0.5": 0.7, "macro@0.5_interval": [0.6, 0.8]}
    tasks = {"diff": {"acc@0.5": 0.25, "acc@0.5_interval": [0.2, 0.3]}}
    report = {"authors": mean | {"tasks": tasks}, "tasks": {}, "refinement": None}
    found = verdicts(find("univg_r1", "mig_bench").figures, report)
    assert (found[0].ours, found[0].interval) == (70.0, (60.0, 80.0))
    assert (found[1].figure.task, found[1].ours) == ("diff", 25.0)
    assert {each.words for each in found[2:]} == {"nothing measured"}
    refinement = {"nsri_w": 0.75, "nsri_w_stderr": 0.01}
    ours = {"acc@0.5": 0.9, "acc@0.5_interval": [0.89, 0.91]}
    report = ours | {"authors": None, "tasks": {}, "refinement": refinement}
    accuracy, nsri = verdicts(find("vg_refiner", "refcoco_testA").figures, report)
    assert (accuracy.ours, accuracy.agrees) == (90.0, False)
    assert nsri.interval == pytest.approx((73.04, 76.96)) and nsri.agrees


def test_a_reproduction_is_an_evaluation(alone: Path, tmp_path: Path) -> None:
    """The shipped model stands in for the published one, scenes for the photos."""
    save_dataset(alone / "llmseg_grounding.jsonl", open_dataset("synth:referring", limit=6)[:])
    out = tmp_path / "out"
    row = ("univg_r1", "--benchmark", "llmseg_grounding", "--model", "tiny", "--prompt", "tiny")
    told = reground("reproduce", *row, "--out", str(out)).stdout
    folder = out / "univg_r1_llmseg_grounding"
    report = json.loads((folder / "report.json").read_text())
    found = json.loads((folder / "reproduction.json").read_text())
    (figure,) = found["figures"]
    assert (found["scorer"], figure["published"]) == ("univg_r1_zero_shot", "50.60")
    assert figure["ours"] == f"{100 * report['authors']['acc@0.5']:.2f}"
    assert figure["verdict"] in told and "Figures by univg_r1_zero_shot, 6 samples." in told
    assert "asked with prompt tiny, in our wording" in told
    run = report["run"]
    assert (run["min_pixels"], run["max_pixels"]) == (3136, 640_000)  # as published
    question = Question(
        model="tiny",
        data="llmseg_grounding",
        prompt="tiny",
        authors_scorer="univg_r1_zero_shot",
        min_pixels=3136,
        max_pixels=640_000,
    )
    assert evaluate(tmp_path / "eval", question)["acc@0.5"] == report["acc@0.5"]
    same = [(each / "predictions.jsonl").read_bytes() for each in (folder, tmp_path / "eval")]
    assert same[0] == same[1]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda each: each.path)
def test_a_recipe_fits_its_gpus(recipe: Recipe) -> None:
    """By the arithmetic of docs/scale.md, with a GiB to spare."""
    needed = derived(replace(recipe, path=str(Path(__file__).parents[1] / recipe.path)))
    assert needed["gib"] + needed["engine_gib"] + 1 <= recipe.machine.gb * 1e9 / 2**30


def test_every_published_prompt_has_a_name_of_its_own() -> None:
    names = [each.name for each in published_prompts()]
    assert len(names) == len(set(names))
    used = {entry.asked.prompt for entry in ENTRIES} - {None}
    assert used <= set(names)
