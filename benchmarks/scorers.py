"""Our scorer beside the peers' on answers that other projects stored, and where they differ.

    python benchmarks/scorers.py STORED --out docs/results/scorers.json

STORED holds mig_bench/outputs/MODEL/*.json, rec_logs/*.json and samples/annotations.json
(a sample that VG-Refiner shows: a slice of pizza, its tool's box, another model's answer).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import parser, publish

from reground.evaluation.records import SampleScore, read_run, read_scores
from reground.evaluation.reporting.report import write_json_report
from reground.evaluation.scoring.metrics import HITS
from reground.evaluation.scoring.refinement import refinement
from reground.evaluation.scoring.score import OURS, diagnose_log, score_log
from reground.grounding.boxes import Box, Frame, iou
from reground.grounding.refinement_reward import reward

RUNS = Path("runs/scorers")
REC_SCORERS = (
    "vlm_r1",
    "vlm_r1_baseline",
    "vlm_r1_reward",
    "vg_refiner",
    "vg_refiner_precomputed",
    "lmms_eval_grounding",
)
KEPT = ("n", "acc@0.3", "acc@0.5", "acc@0.5_stderr", "acc@0.7", "mean_iou", "macro@0.5", "status")


def main() -> None:
    """Score every file by every scorer that reads its form; print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("stored", type=Path, help="folder with mig_bench/ and rec_logs/")
    asked = command_line.parse_args()
    figures: dict[str, Any] = {}
    for folder in sorted((asked.stored / "mig_bench/outputs").iterdir()):
        peers = ["migician" if folder.name == "migician" else "mig_bench"]
        figures[folder.name] = _compared(folder, "mig_bench_outputs", peers)
    for log in sorted((asked.stored / "rec_logs").glob("*.json")):
        figures[log.stem] = _compared(log, "vlm_r1_log", REC_SCORERS)
    result = {"files": figures, "pizza": _pizza(asked.stored / "samples/annotations.json")}
    publish(result, out=asked.out, config={"stored": "mig_bench/outputs, rec_logs, samples"})


def _compared(path: Path, format_name: str, peers: Sequence[str]) -> dict[str, Any]:
    """The figures of every scorer, and for each peer what became of the answers it differs on."""
    rows: dict[str, Any] = {}
    ours: list[SampleScore] = []
    for scorer in (OURS, *peers):
        out = RUNS / path.stem / scorer
        score_log(path, format_name=format_name, out=out, scorer=scorer)
        report = write_json_report(out)
        own = {key: report[key] for key in KEPT} | {"hit": report["run"]["hit"]}
        own["tasks"] = {name: row["acc@0.5"] for name, row in report["tasks"].items()}
        if scorer == OURS:
            ours = list(read_scores(out))
        else:
            own |= _differences(ours, list(read_scores(out)), hit=read_run(out).hit)
        rows[read_run(out).scorer] = own
    verdict = diagnose_log(path, format_name=format_name).splitlines()[-1]
    print(path.stem, {name: round(100 * row["acc@0.5"], 2) for name, row in rows.items()}, verdict)
    return {"scorers": rows, "recorded boxes": verdict}


def _pizza(annotations: Path) -> dict[str, Any]:
    """What VG-Refiner's measures and its reward make of a correction."""
    facts = json.loads(annotations.read_text())["pizza.jpg"]
    frame = Frame.pixels(*facts["size_wh"])
    edges = (facts["gt_xyxy"], facts["qwen2_5_vl_7b_box_xyxy"], *facts["tool_boxes_xyxy"])
    true, answer, tool = (Box(x1, y1, x2, y2, frame) for x1, y1, x2, y2 in edges)
    before, after = iou(tool, true), iou(answer, true)
    text = f'<answer>{{"bbox_2d": {list(answer.xyxy)}}}</answer>'
    found = reward(f"<think></think><rethink></rethink>{text}", truth=[true.xyxy], tool=[tool.xyxy])
    return {
        "tool IoU": before,
        "answer IoU": after,
        "reward": found.overall,
        "ccr": refinement([after], [before]).ccr,
    }


def _differences(
    ours: Sequence[SampleScore], theirs: Sequence[SampleScore], *, hit: str
) -> dict[str, Any]:
    """Answers that one counts and the other does not, the peer's extra ones by our reading."""
    only_peer: Counter[str] = Counter()
    only_ours = 0
    for own, other in zip(ours, theirs, strict=True):
        own_hit, other_hit = (own.iou or 0.0) > 0.5, HITS[hit](other.iou or 0.0, 0.5)
        only_ours += own_hit and not other_hit
        if other_hit and not own_hit:
            only_peer[_reading(own, other)] += 1
    return {"only ours": only_ours, "only peer": dict(only_peer.most_common())}


def _reading(own: SampleScore, other: SampleScore) -> str:
    """Why we count nothing where the peer counts a hit."""
    if own.status != "ok":
        return str(own.status)
    if len(own.predicted) != 1:
        return "several boxes" if own.predicted else "an empty list"
    edges = zip(own.predicted[0], other.predicted[0], strict=True)
    same = all(abs(a - b) < 1e-6 for a, b in edges)
    return "same box, other IoU" if same else "another box"


if __name__ == "__main__":
    main()
