"""Tables of docs/refining.md: think-rethink with weak and strong detectors."""

from __future__ import annotations

from tables.common import percent, read, table

_REFINED = {
    "base": "start, shown the boxes (PiTER)",
    "sft": "CoT-SFT, think-rethink",
    "grpo": "+ GRPO, refinement reward",
    "grpo_iou": "+ GRPO, IoU reward",
}
_PROBES = {
    "correct": "right box",
    "wrong": "wrong box",
    "none": "no box",
    "several": "right one of several",
}


def refiner() -> str:
    """Scenes with a weak and a strong detector: VG-Refiner's measures of every arm."""
    return _refined("refiner")


def refiner_photos() -> str:
    """Blood cells with a weak and a strong detector."""
    return _refined("refiner_photos")


def _refined(name: str) -> str:
    result = read(name)
    rows: list[list[object]] = []
    for tool in ("weak", "strong"):
        for arm, label in _REFINED.items():
            own = result["table"][f"{arm}, {tool}"]
            if arm == "base":
                alone = percent(own, "tool_accuracy")
                rows.append([f"{tool} tool alone", alone, "", "", "", "", own["n"]])
            cells = [percent(own, each) for each in ("accuracy", "ccr", "nsri", "nsri_w", "nsri_c")]
            rows.append([label, *cells, own["n"] * own["seeds"]])
    return table(["", "Acc@0.5 (%)", "CCR", "NSRI", "NSRI_w", "NSRI_c", "n"], rows)


def refiner_probes() -> str:
    """The same samples with a right, a wrong, no and several boxes, and asked without a tool."""
    return _probed("refiner")


def refiner_photos_probes() -> str:
    """The same for blood cells."""
    return _probed("refiner_photos")


def _probed(name: str) -> str:
    result = read(name)
    followed = result["followed, correct box less wrong box"]
    gained = result["right with the weak tool, less with none"]
    direct = result["direct, without a tool"]
    rows: list[list[object]] = [["start", *[""] * 8, percent(direct["base"], "accuracy")]]
    for arm in ("sft", "grpo", "grpo_iou"):
        own = {name: result["probes"][f"{arm}, {name}"] for name in _PROBES}
        rows.append(
            [
                _REFINED[arm],
                *(percent(row, "accuracy") for row in own.values()),
                *(percent(own[name], "follow_rate") for name in ("correct", "wrong")),
                percent(followed[arm], "difference"),
                percent(gained[arm], "difference"),
                percent(direct[arm], "accuracy"),
            ]
        )
    head = ["follows it", "follows the wrong one", "difference", "weak tool less no box", "direct"]
    return table(["Acc@0.5 (%)", *_PROBES.values(), *head], rows)
