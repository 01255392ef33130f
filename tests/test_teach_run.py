"""The stages by the command line: one after the other, alone, and once more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reground.data.source import open_dataset
from reground.teacher.store import Store

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[1] / "configs/tiny/teach.yaml"


def teach(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "reground", "teach", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    return [f"store={tmp_path / 'c.db'}", f"export.out={tmp_path / 'out'}"]


def test_the_shipped_config_runs_whole_and_a_second_run_finds_nothing_to_do(
    places: list[str], tmp_path: Path
) -> None:
    first = teach("run", CONFIG, *places, "limit=2").stdout
    assert "60 of 60 chains, 60 of them now" in first
    assert "60 chains verified: 60 ok" in first and "20 picked now" in first
    assert len((tmp_path / "out/sft.jsonl").read_text().splitlines()) == 20
    again = teach("run", CONFIG, *places, "limit=2").stdout
    assert "60 of 60 chains, 0 of them now" in again
    assert "0 chains verified: none was left" in again and "0 picked now" in again


def test_settings_alone_suffice_and_are_not_the_scenes_of_an_evaluation(places: list[str]) -> None:
    told = teach("run", *places, "data=synth:region", "limit=2", "ask.n=1").stdout
    assert "2 of 2 chains, 2 of them now" in told
    with Store.open(Path(places[0].removeprefix("store="))) as store:
        made = [sample.images for sample in store.samples()]
    evaluated = open_dataset("synth:region", seed=7, limit=2)
    assert made != [sample.images for sample in evaluated]
    again = teach("run", *places, "ask.n=1", "--again").stdout
    assert "2 chains verified: 2 ok" in again and "2 picked now" in again


def test_stages_run_alone(places: list[str], tmp_path: Path) -> None:
    store, out = places
    teach("ask", store, "data=synth:region", "limit=3", "ask.n=2")
    assert "6 chains verified: 6 ok" in teach("verify", store).stdout
    assert "6 wrong_box" in teach("verify", store, "verify.min_iou=1.0", "--again").stdout
    assert "0 picked now; in all none" in teach("judge", store).stdout
    teach("verify", store, "--again")
    assert "3 picked now; in all 3 by rule; 0 ties" in teach("judge", store).stdout
    told = teach("export", store, out, "--copy-images").stdout
    assert "sharegpt.jsonl: 3 rows" in told and (tmp_path / "out/README.md").is_file()


def test_settings_that_changed_are_told(places: list[str], tmp_path: Path) -> None:
    store, _ = places
    teach("ask", store, "data=synth:region", "limit=3", "ask.n=2")
    teach("verify", store)
    told = teach("verify", store, "verify.min_words=1").stdout
    assert "6 chains were verified with min_words=5; --again applies min_words=1" in told
    assert "were verified" not in teach("verify", store, "--again", "verify.min_words=1").stdout
    assert "newer" not in teach("judge", store).stdout
    prompt = tmp_path / "mine.txt"
    prompt.write_text("$question $boxes")
    told = teach("ask", store, f"ask.prompt={prompt}", "ask.n=1").stdout
    assert "the store also holds 6 chains asked for with prompt=teach@" in told
    teach("verify", store)
    told = teach("judge", store).stdout
    assert "3 samples have verified chains newer than their pick; --again considers them" in told
    assert "newer" not in teach("judge", store, "--again").stdout


def test_a_store_without_chains_is_told_so(places: list[str]) -> None:
    unreachable = ["teacher.url=http://127.0.0.1:9/v1", "teacher.model=m"]
    teach("ask", places[0], "data=synth:region", "limit=1", *unreachable, code=2)
    for stage in ("verify", "judge", "export"):
        assert (
            "holds no chain yet; run `reground teach ask`" in teach(stage, places[0], code=2).stderr
        )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["export"], "not verified yet: 3); run `reground teach verify` and"),
        (["judge"], "9 chains are not verified yet; run `reground teach verify` first"),
        (["verify", "verify.iou=1"], "verify.iou: unknown key"),
        (["judge", "judge.max_cost=1"], "judge.max_cost needs judge.teacher.prompt_price"),
        (["ask", "teacher.model=gpt-x"], "teacher.model is gpt-x, and no server is named"),
        (
            ["ask", "data=[synth:region, synth:diff]", "limit=1"],
            "holds other samples than synth:region, synth:diff (seed=41, limit=1); it was made of "
            "synth:region (seed=41, limit=3)",
        ),
        (["ask", "data=[synth:region, synth:diff]"], "synth:region is endless; say how many"),
        (["verify", "store=none.db"], "none.db: no such database"),
        (["review", "--no-open"], "c.db: no chain is picked yet; run"),
        (["verify", "none.yaml"], "none.yaml: cannot read this config"),
        (["verify", "none.yaml", "x.yaml"], "found none.yaml and x.yaml; expected one config"),
        (["ask", "data=[]"], "data names no samples; expected a JSONL, synth:TASK or a benchmark"),
        (["ask", "data=", "store=new.db"], "new.db: no such database yet; say with data="),
        (["export", "export.direct_tasks=diff"], "expected a list, as [diff]"),
        (["ask", "ask.n=0"], "ask.n: found 0, expected at least 1"),
        (["ask", "ask.max_cost=1"], "error: ask.max_cost needs teacher.prompt_price"),
        (["export", "c.db"], "found c.db, expected a config; say store=c.db"),
    ],
)
def test_problems_are_one_sentence(places: list[str], arguments: list[str], problem: str) -> None:
    teach("ask", places[0], "data=synth:region", "limit=3")
    error = teach(arguments[0], places[0], *arguments[1:], code=2).stderr
    assert problem in error and "Traceback" not in error
