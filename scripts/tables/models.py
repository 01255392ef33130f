"""Tables of docs/results.md: the shipped model, blood cells, the demo, speed."""

from __future__ import annotations

from reground.tinyworld import scenes as synth
from tables.common import over_seeds, percent, ratio, read, table

_CLASSES = {"WBC": "white cell", "Platelets": "platelet", "RBC": "leftmost red cell"}


def tiny() -> str:
    """The shipped model by task, with images and with grey ones in their place."""
    result = read("tiny")
    rows = []
    for task, seen in result["seen"].items():
        rows.append([f"`synth:{task}`", percent(seen), percent(result["blank"][task]), seen["n"]])
        if task == "referring":
            for stratum, own in seen["strata"].items():
                if stratum.startswith(("kind=", "objects=")):
                    rows.append([stratum.replace("=", ": "), percent(own), "", own["n"]])
    return table(["scenes", "Acc@0.5 (%)", "images blanked", "n"], rows)


def tasks() -> str:
    """What each task of the scene world asks: its first question of seed 0."""
    drawn = [synth.sample(task, seed=0, index=0) for task in synth.TASKS]
    rows = ([f"`synth:{own.task}`", own.question, len(own.images)] for own in drawn)
    return table(["task", "a question", "images"], rows)


def bccd() -> str:
    """Blood cells by class: what needs no training, and each arm over its seeds."""
    result = read("bccd")
    seeds = [own for name, own in result.items() if name.startswith("seed ")]
    classes = [f"class={name}" for name in _CLASSES]
    rows = [
        ["best constant box", *(percent(result["constant_box"][name]) for name in classes)],
        ["before training", *(percent(result["before"][name]) for name in classes)],
    ]
    arms = {
        "sft": "CoT-SFT",
        "grpo": "+ GRPO",
        "direct": "direct SFT (boxes alone)",
        "blank": "+ GRPO, images blanked",
    }
    for arm, label in arms.items():
        cells = [over_seeds([seed[arm][name] for seed in seeds]) for name in classes]
        rows.append([label, *cells])
    leads = result["above constant box"]["grpo"]
    rows.append(["+ GRPO less constant box", *(percent(leads[name]) for name in classes)])
    counts = [result["before"][name]["n"] for name in classes]
    return table(["Acc@0.5 (%)", *_CLASSES.values()], [*rows, ["n (test photos)", *counts]])


def headline() -> str:
    """Three numbers for the first screen: photos, what GRPO adds, the speed of its update."""
    cells, arms, trl = read("bccd"), read("demo")["arms"], read("vs_trl")["one image"]
    white = "class=WBC"
    seeds = [own["grpo"][white] for name, own in cells.items() if name.startswith("seed ")]
    update, memory = (
        trl[what]["median"] for what in ("update, times faster", "peak memory, times less")
    )
    base, grpo, longer = (
        f"{100 * arms[name]['acc@0.5']:.1f} %"
        for name in ("CoT-SFT", "+ GRPO", "+ SFT for the same time")
    )
    rows = [
        [
            "the white blood cell in test photos, IoU above 0.5 (mean of three seeds)",
            f"{over_seeds(seeds).partition(' (')[0]} %",
            f"best constant box: {percent(cells['constant_box'][white])} % "
            "([photos](docs/photos.md#what-came-of-it))",
        ],
        [
            "what differs between two images, after CoT-SFT and GRPO",
            grpo,
            f"after CoT-SFT {base}, with more SFT {longer} ([results](docs/results.md#make-demo))",
        ],
        [
            "an update of GRPO on a CPU, against TRL's",
            f"{update:.1f} times faster",
            f"{memory:.1f} times less memory ([scale](docs/scale.md#beside-trl))",
        ],
    ]
    return table(["measured", "here", "beside"], rows)


def demo() -> str:
    """What ``make demo`` printed."""
    found = read("demo")
    arms = table(
        ["arm", "Acc@0.5 (%)", "mean IoU (%)", "n"],
        (
            [name, percent(own), percent(own, "mean_iou"), own["n"]]
            for name, own in found["arms"].items()
        ),
    )
    gains = table(
        ["GRPO against", "points of Acc@0.5, same scenes", "95 % interval"],
        (
            [
                own["over"],
                f"{100 * own['acc@0.5']:+.1f}",
                f"{100 * own['low']:+.1f} to {100 * own['high']:+.1f}",
            ]
            for own in found["gains"]
        ),
    )
    return f"{arms}\n{gains}"


def speed() -> str:
    """Ratios of the two performance benchmarks."""
    update, rollout = read("grpo_update"), read("rollout")
    rows = [
        [
            f"GRPO update, P {update['P']}, C {update['C']}, G {update['G']}",
            ratio(update),
            f"peak memory {update['peak_memory_ratio']} times less; gradient within "
            f"{update['gradient_relative_error']:.0e}",
        ],
        [
            f"rollout, P {rollout['P']}, C {rollout['C']}, {rollout['n']} samples",
            ratio(rollout),
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
    return table(["what", "times faster (median, range)", "beside"], rows)
