"""Write the tables of the documents, from docs/results/*.json and the table of benchmarks.

    python scripts/figures.py           # rewrite what stands between the marks
    python scripts/figures.py --check   # say which document is out of date

A table stands between ``<!-- figures: NAME -->`` and ``<!-- end -->``; NAME is a function below.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reground.data import benchmarks as known
from reground.data import synth
from reground.data.tasks import MIG_BENCH_COLUMNS
from reground.grounding.boxes import Box
from reground.grounding.families import FAMILIES, EncodedSize

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "results",
            "benchmarks",
            "evaluation",
            "scorers",
            "teaching",
            "refining",
            "scale",
        )
    ),
)
RESULTS = ROOT / "docs/results"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CLASSES = {"WBC": "white cell", "Platelets": "platelet", "RBC": "leftmost red cell"}
_ARMS = {
    "tiny": "shipped model, no training",
    "pure_rl": "GRPO without cold start",
    "box_sft": "SFT on coordinates alone",
    "cot_sft": "CoT-SFT",
    "more_sft": "CoT-SFT, then more SFT",
    "grpo": "CoT-SFT, then GRPO (phi = none)",
    "grpo_exp": "CoT-SFT, then GRPO with phi = exp",
    "grpo_log": "CoT-SFT, then GRPO with phi = log",
    "grpo_square": "CoT-SFT, then GRPO with phi = square",
}

_REFINED = {
    "base": "start, shown the boxes (PiTER)",
    "sft": "CoT-SFT, think-rethink",
    "grpo": "+ GRPO, refinement reward",
    "grpo_iou": "+ GRPO, IoU reward",
}
_SERVER_COST, _LOST_COST = "cost by the server's log", "cost of answers on their way"
_PROBES = {
    "correct": "right box",
    "wrong": "wrong box",
    "none": "no box",
    "several": "right one of several",
}

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


def main() -> None:
    """Rewrite or check every document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(path.name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"{', '.join(stale)}: not what docs/results says; run python scripts/figures.py")


def filled(text: str) -> str:
    """The text with every table made anew."""
    return _BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def tiny() -> str:
    """The shipped model by task, with images and with grey ones in their place."""
    result = _read("tiny")
    rows = []
    for task, seen in result["seen"].items():
        rows.append([f"`synth:{task}`", _percent(seen), _percent(result["blank"][task]), seen["n"]])
        if task == "referring":
            for stratum, own in seen["strata"].items():
                if stratum.startswith(("kind=", "objects=")):
                    rows.append([stratum.replace("=", ": "), _percent(own), "", own["n"]])
    return _table(["scenes", "Acc@0.5 (%)", "images blanked", "n"], rows)


def tasks() -> str:
    """What each task of the scene world asks: its first question of seed 0."""
    drawn = [synth.sample(task, seed=0, index=0) for task in synth.TASKS]
    rows = ([f"`synth:{own.task}`", own.question, len(own.images)] for own in drawn)
    return _table(["task", "a question", "images"], rows)


def bccd() -> str:
    """Blood cells by class: what needs no training, and each arm over its seeds."""
    result = _read("bccd")
    seeds = [own for name, own in result.items() if name.startswith("seed ")]
    classes = [f"class={name}" for name in _CLASSES]
    rows = [
        ["best constant box", *(_percent(result["constant_box"][name]) for name in classes)],
        ["before training", *(_percent(result["before"][name]) for name in classes)],
    ]
    arms = {
        "sft": "CoT-SFT",
        "grpo": "+ GRPO",
        "direct": "direct SFT (boxes alone)",
        "blank": "+ GRPO, images blanked",
    }
    for arm, label in arms.items():
        cells = [_over_seeds([seed[arm][name] for seed in seeds]) for name in classes]
        rows.append([label, *cells])
    leads = result["above constant box"]["grpo"]
    rows.append(["+ GRPO less constant box", *(_percent(leads[name]) for name in classes)])
    counts = [result["before"][name]["n"] for name in classes]
    return _table(["Acc@0.5 (%)", *_CLASSES.values()], [*rows, ["n (test photos)", *counts]])


def table4() -> str:
    """UniVG-R1's Table 4 in miniature."""
    return _ablation("table 4", with_start=True)


def table5() -> str:
    """UniVG-R1's Table 5 in miniature."""
    return _ablation("table 5", with_start=False)


def demo() -> str:
    """What ``make demo`` printed."""
    rows = _read("demo")["arms"]
    return _table(
        ["arm", "Acc@0.5 (%)", "mean IoU (%)", "n"],
        ([name, _percent(own), _percent(own, "mean_iou"), own["n"]] for name, own in rows.items()),
    )


def speed() -> str:
    """Ratios of the two performance benchmarks."""
    update, rollout = _read("grpo_update"), _read("rollout")
    rows = [
        [
            f"GRPO update, P {update['P']}, C {update['C']}, G {update['G']}",
            _ratio(update),
            f"peak memory {update['peak_memory_ratio']} times less; gradient within "
            f"{update['gradient_relative_error']:.0e}",
        ],
        [
            f"rollout, P {rollout['P']}, C {rollout['C']}, {rollout['n']} samples",
            _ratio(rollout),
            "against `generate(num_return_sequences=8)`",
        ],
    ]
    turns = rollout["think_rethink"]
    cost = f"{turns['cost_ratio']} ({turns['cost_ratio_min']}-{turns['cost_ratio_max']})"
    rows.append(
        [
            f"think-rethink, {turns['prompts']} prompts by {turns['n']}, a sampled token",
            f"costs {cost} times",
            f"a direct one; {turns['told_tokens']} tokens of the tool are read besides",
        ]
    )
    return _table(["what", "times faster (median, range)", "beside"], rows)


def growth() -> str:
    """How time and memory of an update grow, beside what is counted."""
    result = _read("growth")
    rows = [
        [
            f"{own['completions']}, {own['images']}, {own['parameters'] / 1e6:.0f} M",
            _spread(own["seconds"], "s"),
            " + ".join(f"{value:.3g}" for value in own["gflop"].values()),
            _spread(own["seconds over FLOPs"], "times"),
            _spread({name: mib / 1024 for name, mib in own["peak MiB"].items()}, "GiB"),
            f"{own['counted MiB'] / 1024:.3g} GiB",
        ]
        for own in result["points"]
    ]
    flops = "GFLOP: " + " + ".join(result["points"][0]["gflop"])
    head = ["completions, images, weights", "an update", flops, "time over FLOPs", "peak memory"]
    config = result["config"]
    return _table([*head, "counted tensors"], rows) + (
        f"\nTime is within a factor of {result['furthest from FLOPs']:.2f} of what the FLOPs say, "
        f"starting from the first row. Medians (ranges) of {config['repeats']} turns on "
        f"{config['threads']} threads.\n"
    )


def refiner() -> str:
    """Scenes with a weak and a strong detector: VG-Refiner's measures of every arm."""
    return _refined("refiner")


def refiner_probes() -> str:
    """The same samples with a right, a wrong, no and several boxes, and asked without a tool."""
    return _probed("refiner")


def refiner_photos_probes() -> str:
    """The same for blood cells."""
    return _probed("refiner_photos")


def _probed(name: str) -> str:
    result = _read(name)
    followed = result["followed, correct box less wrong box"]
    gained = result["right with the weak tool, less with none"]
    direct = result["direct, without a tool"]
    rows: list[list[object]] = [["start", *[""] * 8, _percent(direct["base"], "accuracy")]]
    for arm in ("sft", "grpo", "grpo_iou"):
        own = {name: result["probes"][f"{arm}, {name}"] for name in _PROBES}
        rows.append(
            [
                _REFINED[arm],
                *(_percent(row, "accuracy") for row in own.values()),
                *(_percent(own[name], "follow_rate") for name in ("correct", "wrong")),
                _percent(followed[arm], "difference"),
                _percent(gained[arm], "difference"),
                _percent(direct[arm], "accuracy"),
            ]
        )
    head = ["follows it", "follows the wrong one", "difference", "weak tool less no box", "direct"]
    return _table(["Acc@0.5 (%)", *_PROBES.values(), *head], rows)


def refiner_photos() -> str:
    """Blood cells with a weak and a strong detector."""
    return _refined("refiner_photos")


def vs_trl() -> str:
    """A GRPO step here and of TRL's GRPOTrainer."""
    rows = []
    for case in ("one image", "four images"):
        own = _read("vs_trl")[case]
        ours, theirs = own["reground"], own["trl"]
        for what, name, unit in (
            ("update, times faster", "update_s", "s"),
            ("step with generation, times faster", "step_s", "s"),
            ("peak memory, times less", "peak_mib", "MiB"),
        ):
            row = own[what]
            ratio = f"{row['median']} ({row['min']}-{row['max']})"
            label = f"{case}, {theirs['prompt']:.0f} prompt tokens: {what}"
            rows.append([label, ratio, f"{ours[name]:.4g} {unit}", f"{theirs[name]:.4g} {unit}"])
    return _table(["what", "ratio (median, range)", "ReGround", "TRL"], rows)


def vllm() -> str:
    """A real vLLM beside the trainer."""
    forms = {"in process": _read("vllm"), "server": _read("vllm_server")}
    rows: list[list[object]] = []
    for form, own in forms.items():
        greedy, probs, run = own["greedy"], own["log-probs"], own["grpo"]
        gaps = [f"{probs[part][at]['largest']:.1g}" for part in probs for at in probs[part]]
        rows.append(
            [
                form,
                f"{greedy['equal']} of {greedy['answers']}",
                f"{gaps[0]} to {gaps[1]}",
                f"{gaps[2]} to {gaps[3]}",
                f"{max(run['largest gap']):.1g} in {len(run['largest gap'])} steps",
                " and ".join(f"{rate:.0f}" for rate in own["rollouts"].values()),
            ]
        )
    head = ["vLLM", "greedy answers equal", "language moved: largest gap, old to new weights"]
    head += ["vision moved", "a run of GRPO", "tokens/s of vLLM and of the trainer's policy"]
    return _table(head, rows)


def recipes() -> str:
    """What the full-size recipes would need; derived, not measured."""
    rows = [
        [
            f"`{name}`",
            own["gpus"],
            f"{own['gib']} GiB + {own['engine_gib']} for vLLM"
            if own["engine_gib"]
            else f"{own['gib']} GiB",
            own["steps"],
            " + ".join(f"{value} s" for value in own["seconds a step"].values() if value),
            f"{own['hours']} h",
        ]
        for name, own in _read("recipes").items()
        if isinstance(own, dict) and "hours" in own
    ]
    head = ["recipe (derived)", "GPUs", "memory of each", "steps", "a step", "in all"]
    return _table(head, rows)


def _refined(name: str) -> str:
    result = _read(name)
    rows: list[list[object]] = []
    for tool in ("weak", "strong"):
        for arm, label in _REFINED.items():
            own = result["table"][f"{arm}, {tool}"]
            if arm == "base":
                alone = _percent(own, "tool_accuracy")
                rows.append([f"{tool} tool alone", alone, "", "", "", "", own["n"]])
            cells = [
                _percent(own, each) for each in ("accuracy", "ccr", "nsri", "nsri_w", "nsri_c")
            ]
            rows.append([label, *cells, own["n"] * own["seeds"]])
    return _table(["", "Acc@0.5 (%)", "CCR", "NSRI", "NSRI_w", "NSRI_c", "n"], rows)


def teacher() -> str:
    """Asking for chains: what a misbehaving server and ten kills left, and how fast it goes."""
    result = _read("teacher")
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
    return _table(["what", "found"], rows)


def scorers() -> str:
    """Our score and the peers' of answers that other projects stored."""
    rows = []
    for name in _SCORED:
        own = dict(_read("scorers")["files"][name]["scorers"])
        ours = own.pop("reground")
        for peer, row in own.items():
            extra = ", ".join(f"{count} {_WHY[why]}" for why, count in row["only peer"].items())
            cells = [_SCORED[name], f"`{peer}`", _points(row), _points(ours)]
            rows.append([*cells, extra or "none", row["only ours"]])
    head = ["answers", "scorer", "its Acc@0.5 (%)", "ours", "only it counts", "only we count"]
    return _table(head, rows)


def mig_bench() -> str:
    """Stored answers on MIG-Bench by task, in the paper's columns, by its rules and by ours."""
    files = _read("scorers")["files"]
    rows = [
        [_SCORED[name].split()[0], f"`{scorer}`"]
        + [f"{100 * own['tasks'][task]:.2f}" for task in MIG_BENCH_COLUMNS]
        + [f"{100 * own['macro@0.5']:.2f}"]
        for name in ("migician", "qwen2_vl")
        for scorer, own in reversed(files[name]["scorers"].items())
    ]
    return _table(["model", "scorer", *MIG_BENCH_COLUMNS.values(), "AVG"], rows)


def pizza() -> str:
    """A correction of a wrong tool box, as VG-Refiner measures and rewards it."""
    own = _read("scorers")["pizza"]
    cells = [f"{own[name]:.3f}" for name in ("tool IoU", "answer IoU")]
    row = [*cells, f"{own['reward']:.1f}", f"{100 * own['ccr']:.0f}"]
    return _table(["IoU of the tool's box", "of the answer", "reward", "CCR (%)"], [row])


def families() -> str:
    """Every family: its frame, a gold answer, and the prompt it is asked with."""
    size = EncodedSize(640, 480, 644, 476)
    box = Box(64, 120, 320, 360, size.pixels)
    rows = []
    for own in FAMILIES.values():
        answer = own.render([box], size=size, think="...", rethink="...").replace("\n", " ")
        rows.append([f"`{own.name}`", own.frame.value, f"`{answer}`", f"`{own.prompt}`"])
    return _table(["family", "frame", "an answer", "prompt"], rows)


def scoring() -> str:
    """What scoring costs."""
    own = _read("scoring")["scoring"]
    slowest = max(row["seconds at 100 KB"] for row in own["hostile"].values())
    growth = max(max(row["growth when doubled"]) for row in own["hostile"].values())
    rows = [
        ["`reground score`, 4,276 answers, start to exit", _spread(own["command"], "s")],
        ["one parse, mean of those answers", _spread(own["microseconds a parse"], "µs")],
        ["slowest of seven hostile texts of 100 KB", f"{1e3 * slowest:.1f} ms"],
        ["growth when such a text is doubled, at most", f"{growth} times"],
    ]
    return _table(["what", "median (range)"], rows)


def endpoint() -> str:
    """The shipped model in process and behind a server."""
    rows = [
        [
            f"`synth:{task}`",
            _percent(own["in process"]),
            _percent(own["server"]),
            f"{own['same texts']} of {own['server']['n']}",
        ]
        for task, own in _read("endpoint")["tasks"].items()
    ]
    return _table(["scenes", "in process, Acc@0.5 (%)", "server", "same texts"], rows)


def benchmarks() -> str:
    """Every benchmark: what it is, how many samples it has, how it is scored."""
    rows = (
        [f"`{own.name}`", own.title, own.samples or "unknown", own.metric]
        for own in known.table().values()
    )
    return _table(["name", "what", "samples", "metric"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        tasks,
        tiny,
        bccd,
        table4,
        table5,
        demo,
        speed,
        growth,
        refiner,
        refiner_probes,
        refiner_photos,
        refiner_photos_probes,
        recipes,
        vllm,
        vs_trl,
        teacher,
        scorers,
        mig_bench,
        pizza,
        families,
        scoring,
        endpoint,
        benchmarks,
    )
}


def _ablation(name: str, *, with_start: bool) -> str:
    result = _read("ablation")
    rows = {"tiny": result["arms"]["tiny"]["macro"]} if with_start else {}
    rows |= result[name]
    return _table(
        ["arm", "mean Acc@0.5 over tasks (%)", "n"],
        ([_ARMS[arm], _percent(own), own["n"]] for arm, own in rows.items()),
    )


def _read(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _percent(row: Mapping[str, Any], name: str = "acc@0.5") -> str:
    return f"{100 * row[name]:.1f} ± {100 * row[f'{name}_stderr']:.1f}"


def _points(row: Mapping[str, Any]) -> str:
    return f"{100 * row['acc@0.5']:.2f}"


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean over seeds, the standard error over test photos, and the range of the seeds."""
    values = [100 * row["acc@0.5"] for row in rows]
    error = 100 * statistics.mean(row["acc@0.5_stderr"] for row in rows)
    return f"{statistics.mean(values):.1f} ± {error:.1f} ({min(values):.0f}-{max(values):.0f})"


def _spread(row: Mapping[str, float], unit: str) -> str:
    return f"{row['median']:.3g} {unit} ({row['min']:.3g}-{row['max']:.3g})"


def _ratio(row: Mapping[str, Any]) -> str:
    return f"{row['speedup']} ({row['speedup_min']}-{row['speedup_max']})"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
