"""Tables of scorers, families, parsing, endpoints, harnesses, benchmarks and teaching."""

from __future__ import annotations

from typing import Any

from reground.data import benchmarks as known
from reground.data.benchmarks import MIG_BENCH_COLUMNS
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.protocols.families import FAMILIES
from reground.protocols.protocol import get_protocol
from tables.common import percent, points, read, spread, table

_SCORED = {
    "migician": "Migician on MIG-Bench",
    "qwen2_vl": "Qwen2-VL on MIG-Bench",
    "rec_results_refcoco_val_qwen2_5vl_3b_instruct_r1_600": "3B, GRPO 600 steps",
    "rec_results_refcoco_val_qwen2_5vl_3b_instruct_sft_200": "3B, SFT 200 steps",
    "vlmr1_7b_untrained_refcoco_val": "7B, untrained",
    "vlmr1_7b_lora_step5000_refcoco_val": "7B, GRPO 5,000 steps",
}
_WHY = {
    "no_answer": "without an answer block",
    "unparsable": "unparsable",
    "out_of_bounds": "outside the image",
    "degenerate": "without area",
    "several boxes": "with several boxes",
    "another box": "by another box",
    "same box, other IoU": "by another IoU",
}
_MEANS = ("acc@0.5", "mean_iou", "macro@0.5")
_SERVER_COST, _LOST_COST = "cost by the server's log", "cost of answers on their way"


def scorers() -> str:
    """Our score and the peers' of answers that other projects stored."""
    rows = []
    for name in _SCORED:
        own = dict(read("scorers")["files"][name]["scorers"])
        ours = own.pop("reground")
        for peer, row in own.items():
            extra = ", ".join(f"{count} {_WHY[why]}" for why, count in row["only peer"].items())
            cells = [_SCORED[name], f"`{peer}`", points(row), points(ours)]
            rows.append([*cells, extra or "none", row["only ours"]])
    head = ["answers", "scorer", "its Acc@0.5 (%)", "ours", "only it counts", "only we count"]
    return table(head, rows)


def mig_bench() -> str:
    """Stored answers on MIG-Bench by task, in the paper's columns, by its rules and by ours."""
    files = read("scorers")["files"]
    rows = [
        [_SCORED[name].split()[0], f"`{scorer}`"]
        + [f"{100 * own['tasks'][task]:.2f}" for task in MIG_BENCH_COLUMNS]
        + [f"{100 * own['macro@0.5']:.2f}"]
        for name in ("migician", "qwen2_vl")
        for scorer, own in reversed(files[name]["scorers"].items())
    ]
    return table(["model", "scorer", *MIG_BENCH_COLUMNS.values(), "AVG"], rows)


def confidence() -> str:
    """Which score tells hits from misses, by task."""

    def cell(own: dict[str, Any], name: str) -> str:
        low, high = own[f"{name}_interval"]
        return f"{100 * own[name]:.1f} ({100 * low:.1f} to {100 * high:.1f})"

    rows = []
    for task, own in read("confidence")["tasks"].items():
        found = own["calibration"]
        for name in ("score", "agreement"):
            one = found[name]
            chance = f"{100 * one['ece_by_chance']:.1f}"
            cells = [cell(one, "ece"), chance, cell(one, "auroc")]
            rows.append([f"`synth:{task}`", name, *cells, one["n"]])
        apart = cell(found["difference"], "auroc")
        rows.append([f"`synth:{task}`", "score less agreement", "", "", apart, own["n"]])
    return table(["scenes", "", "ECE (%)", "by chance", "AUROC (%)", "n"], rows)


def pizza() -> str:
    """A correction of a wrong tool box, as VG-Refiner measures and rewards it."""
    own = read("scorers")["pizza"]
    cells = [f"{own[name]:.3f}" for name in ("tool IoU", "answer IoU")]
    row = [*cells, f"{own['reward']:.1f}", f"{100 * own['ccr']:.0f}"]
    return table(["IoU of the tool's box", "of the answer", "reward", "CCR (%)"], [row])


def families() -> str:
    """Every family: its frame, a gold answer, and the prompt it is asked with."""
    size = EncodedSize(640, 480, 644, 476)
    box = Box(64, 120, 320, 360, size.pixels)
    rows = []
    for own in FAMILIES.values():
        usual = get_protocol(own.name)
        answer = usual.render([box], size=size, think="...", rethink="...").replace("\n", " ")
        prompts = ", ".join(f"{name} `{prompt}`" for name, prompt in own.own_prompts.items())
        frame = own.codec.frame.value
        rows.append([f"`{own.name}`", frame, usual.name, f"`{answer}`", prompts])
    return table(["family", "frame", "protocol", "an answer", "prompts"], rows)


def scoring() -> str:
    """What scoring costs."""
    own = read("scoring")["scoring"]
    slowest = max(row["seconds at 100 KB"] for row in own["hostile"].values())
    growth = max(max(row["growth when doubled"]) for row in own["hostile"].values())
    rows = [
        ["`reground score`, 4,276 answers, start to exit", spread(own["command"], "s")],
        ["one parse, mean of those answers", spread(own["microseconds a parse"], "µs")],
        ["slowest of seven hostile texts of 100 KB", f"{1e3 * slowest:.1f} ms"],
        ["growth when such a text is doubled, at most", f"{growth} times"],
    ]
    return table(["what", "median (range)"], rows)


def endpoint() -> str:
    """The shipped model in process and behind a server."""
    rows = [
        [
            f"`synth:{task}`",
            percent(own["in process"]),
            percent(own["server"]),
            f"{own['same texts']} of {own['server']['n']}",
        ]
        for task, own in read("endpoint")["tasks"].items()
    ]
    return table(["scenes", "in process, Acc@0.5 (%)", "server", "same texts"], rows)


def harnesses() -> str:
    """The same answers scored here, in lmms-eval and in Inspect."""
    rows = []
    for name, own in read("harnesses")["runs"].items():
        sides = [own[side] for side in ("reground", "lmms-eval", "inspect")]
        apart = [own[f"{side} less reground"] for side in ("lmms-eval", "inspect")]
        means = max(each.get(key, 0) for each in apart for key in _MEANS)
        errors = max(each[f"{key}_stderr"] for each in apart for key in _MEANS[:2])
        others = sum(each["other texts"] + each["other scores"] for each in apart)
        cells = [own["n"], *map(points, sides), f"{means:g}", f"{errors:.0e}", others]
        rows.append([f"`{name}`", *cells])
    head = ["answers", "n", "Acc@0.5 (%) here", "lmms-eval", "Inspect"]
    head += ["means differ by", "standard errors by", "other texts or scores"]
    return table(head, rows)


def benchmarks() -> str:
    """Every benchmark: what it is, how many samples it has, how it is scored."""
    rows = (
        [f"`{own.name}`", own.title, own.samples or "unknown", own.metric]
        for own in known.table().values()
    )
    return table(["name", "what", "samples", "metric"], rows)


def teacher() -> str:
    """Asking for chains: what a misbehaving server and ten kills left, and how fast it goes."""
    result = read("teacher")
    bad, fast, real = result["misbehaving"], result["instant"], result["real server"]
    faults = ", ".join(f"{name}: {count}" for name, count in bad["faults"].items())
    memory = list(fast["resident MiB after requests"].items())
    grown = "; ".join(f"{mib} MiB after {count}" for count, mib in (memory[0], memory[-1]))
    verdicts = ", ".join(f"{name}: {count}" for name, count in real["verdicts"].items())
    rows = [
        ["chains asked for, stored, verified", f"{bad['answered']}, {bad['kills']} kills"],
        ["faults of the server", faults],
        ["stored chains asked for again", bad["asked again though stored"]],
        [
            "answers on their way when a kill came",
            bad["answered, but killed before stored"],
        ],
        [
            "cost, by the database, of answers on their way, by the server",
            f"{bad['cost']}, {bad[_LOST_COST]}, {bad[_SERVER_COST]}",
        ],
        ["requests a second, of a server that answers at once", fast["requests per second"]],
        ["memory of the asking process", grown],
        ["chains of the tiny model behind vLLM, which never learned to teach", verdicts],
    ]
    return table(["what", "found"], rows)
