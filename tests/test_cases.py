"""`reground score --format cases`: any text by any scorer's rules, as their authors' code does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reground.cli import app
from reground.errors import ConfigError, DataError
from reground.evaluation.scoring.cases import score_cases
from reground.evaluation.scoring.peers import PEERS
from reground.evaluation.scoring.peers.peer import Task
from reground.io import json_line

CASES = Path(__file__).parents[1] / "../shared/data/peer_cases"
ROW = {"text": "[64, 48, 320, 240]", "width": 640, "height": 480, "truth": [64, 48, 320, 240]}


def cases(folder: Path, *rows: Any) -> Path:
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the real data in ../shared/data")
@pytest.mark.parametrize("name", sorted(path.stem for path in CASES.glob("*.jsonl")))
def test_every_stored_verdict_of_the_original_is_ours(tmp_path: Path, name: str) -> None:
    path = CASES / f"{name}.jsonl"
    score_cases(path, out=tmp_path, scorer=name)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) >= 400
    for row, found in zip(rows, scored(tmp_path), strict=True):
        for key in ("iou", "reward", "format", "tool_iou"):
            if row.get(key) is not None:
                assert found[key] == pytest.approx(row[key], abs=1e-9), row
        assert found["hit"] == row["hit"], row
        if row["box"] is not None:
            assert found["predicted"] == row["box"], row


def test_rows_keep_their_order_and_unit(tmp_path: Path) -> None:
    path = cases(tmp_path, ROW | {"text": "(100,100),(500,500)"}, ROW | {"text": "none"})
    means = score_cases(path, out=tmp_path / "out", scorer="mig_bench")
    assert scored(tmp_path / "out") == [
        {"predicted": [100, 100, 500, 500], "iou": 1.0, "hit": True},
        {"predicted": [0, 0, 0, 0], "iou": 0.0, "hit": False},
    ]
    assert (means["n"], means["acc@0.5"], means["mean_iou"]) == (2, 0.5, 0.5)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["scorer"], report["acc@0.5"]) == ("mig_bench", 0.5)


def test_our_own_rule_reads_what_the_family_writes(tmp_path: Path) -> None:
    texts = ['[{"bbox_2d": [64, 48, 320, 240]}]', "nothing", "[]"]
    path = cases(tmp_path, *(ROW | {"text": text} for text in texts))
    score_cases(path, out=tmp_path / "out", scorer="reground", family="qwen2_5_vl")
    assert scored(tmp_path / "out") == [
        {"predicted": [64, 48, 320, 240], "iou": 1.0, "hit": True, "status": "ok"},
        {"predicted": None, "iou": 0.0, "hit": False, "status": "unparsable"},
        {"predicted": [], "iou": 0.0, "hit": False, "status": "ok"},
    ]


def test_a_reward_tells_its_parts(tmp_path: Path) -> None:
    text = '<think></think><rethink></rethink><answer>{"bbox_2d": [64, 48, 320, 240]}</answer>'
    right, wrong = ROW | {"text": text, "tool": ROW["truth"]}, ROW | {"text": text, "tool": None}
    score_cases(cases(tmp_path, right, wrong), out=tmp_path, scorer="vg_refiner_reward")
    rows = scored(tmp_path)
    assert [row["reward"] for row in rows] == pytest.approx([0.55, 1.0])
    assert [row["format"] for row in rows] == [1.0, 1.0]
    assert [row["tool_iou"] for row in rows] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "scorer", "message"),
    [
        (ROW, "vg_refiner_reward", r"cases.jsonl:1: no 'tool', against which vg_refiner_reward"),
        ({"text": "x"}, "mig_bench", r"cases.jsonl:1: no 'width', 'height', 'truth'; expected"),
        ([1], "mig_bench", "found list, expected a JSONL of"),
        (ROW | {"text": 3}, "mig_bench", "'text' is 3, expected a string"),
        (ROW | {"truth": [1, 2, 3]}, "mig_bench", r"'truth' is \[1, 2, 3\], expected"),
        (ROW | {"truth": [1, 2, 3, "4"]}, "mig_bench", "'truth' holds '4', expected numbers"),
        (ROW | {"truth": [1, 2, 3, True]}, "mig_bench", "'truth' holds True"),
        (ROW | {"width": 0}, "mig_bench", "'width' is 0, expected a side in pixels"),
        (ROW | {"tool": 5}, "mig_bench", "'tool' is 5, expected"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    tmp_path: Path, row: Any, scorer: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score_cases(cases(tmp_path, row), out=tmp_path / "out", scorer=scorer)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("scorer", "family", "message"),
    [
        ("mig_bnech", None, "did you mean 'mig_bench'"),
        ("reground", None, "give --family NAME"),
        ("reground", "qwen25", "qwen2_5_vl"),
        ("vlm_r1", "qwen2_5_vl", "--family is for scorer reground"),
    ],
)
def test_a_wrong_scorer_or_family_is_explained(
    tmp_path: Path, scorer: str, family: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        score_cases(cases(tmp_path, ROW), out=tmp_path / "out", scorer=scorer, family=family)


def test_cases_on_the_command_line(tmp_path: Path) -> None:
    words = ["score", "--format", "cases", "--scorer", "vlm_r1_baseline"]
    words += [str(cases(tmp_path, ROW)), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "scores.jsonl: 1 scored; acc@0.5 1.0000, mean_iou 1.0000" in done.output
    refused = CliRunner().invoke(app, ["score", "x", "--family", "qwen3_vl", "--out", "y"])
    assert "--family is for --format cases" in str(refused.exception)
    empty = cases(tmp_path)
    with pytest.raises(DataError, match="no rows"):
        score_cases(empty, out=tmp_path / "out", scorer="vlm_r1")


PIECES = st.sampled_from(
    [
        *("<think>", "</think>", "<answer>", "</answer>", '{"bbox_2d": [', "[", "]", "{", "}"),
        *("(", ")", ", ", ",", " ", "\n", "12", "3.5", "-7", "1e400", "NaN", "Infinity", "null"),
        *("9" * 400, "9" * 5000, '"a"', "true", "٣", "<box>", "</box>", "[1, 2, 3, 4]", "```json"),
        *("(1,2),(3,4)", '{"bbox_2d": [1, 2, 3, 4]}', "[NaN, 1, 2, 3]", "[[[1], [2], [3], [4]]]"),
        *('{"bbox_2d": [1e308, -1e308, 1e308, 1e308]}', "[" * 2000),
    ]
)
TASK = Task((64, 48, 320, 240), 640, 480, (64, 48, 320, 240))


@given(st.lists(PIECES, max_size=20).map("".join))
def test_no_text_makes_a_scorer_fail(text: str) -> None:
    for peer in PEERS.values():
        verdict = peer.judge(text, TASK)
        json_line({"iou": verdict.iou, "reward": verdict.reward})  # refuses what is not finite


LONG = {
    "blocks that never close": "<answer>" * 20_000,
    "thoughts": "<think>" * 20_000,
    "digits": "[" + "9" * 100_000,
    "brackets": "[" * 100_000,
    "braces": "{" * 50_000,
    "lists": "[1, 2, 3, " * 20_000,
    "gaps": "[1," + " " * 100_000,
    "gaps after a turn": "<think></think>" + " " * 100_000,
    "corners": "(1,2),(" * 20_000,
}


@pytest.mark.parametrize("kind", LONG)
def test_long_texts_take_linear_time(kind: str) -> None:
    begin = time.process_time()
    for peer in PEERS.values():
        peer.judge(LONG[kind], TASK)
    assert time.process_time() - begin < 20  # squares of these lengths take hours
