"""Tables of docs/scale.md: growth, TRL, vLLM, the recipes at full size."""

from __future__ import annotations

from tables.common import read, spread, table


def growth() -> str:
    """How time and memory of an update grow, beside what is counted."""
    result = read("growth")
    rows = [
        [
            f"{own['completions']}, {own['images']}, {own['parameters'] / 1e6:.0f} M",
            spread(own["seconds"], "s"),
            " + ".join(f"{value:.3g}" for value in own["gflop"].values()),
            spread(own["seconds over FLOPs"], "times"),
            spread({name: mib / 1024 for name, mib in own["peak MiB"].items()}, "GiB"),
            f"{own['counted MiB'] / 1024:.3g} GiB",
        ]
        for own in result["points"]
    ]
    flops = "GFLOP: " + " + ".join(result["points"][0]["gflop"])
    head = ["completions, images, weights", "an update", flops, "time over FLOPs", "peak memory"]
    config = result["config"]
    return table([*head, "counted tensors"], rows) + (
        f"\nTime is within a factor of {result['furthest from FLOPs']:.2f} of what the FLOPs say, "
        f"starting from the first row. Medians (ranges) of {config['repeats']} turns on "
        f"{config['threads']} threads.\n"
    )


def vs_trl() -> str:
    """A GRPO step here and of TRL's GRPOTrainer."""
    rows = []
    for case in ("one image", "four images"):
        own = read("vs_trl")[case]
        ours, theirs = own["reground"], own["trl"]
        for what, name, unit in (
            ("update, times faster", "update_s", "s"),
            ("step with generation, times faster", "step_s", "s"),
            ("peak memory, times less", "peak_mib", "MiB"),
        ):
            row = own[what]
            ratio = f"{row['median']:.3g} ({row['min']:.3g}-{row['max']:.3g})"
            label = f"{case}, {theirs['prompt']:.0f} prompt tokens: {what}"
            rows.append([label, ratio, f"{ours[name]:.4g} {unit}", f"{theirs[name]:.4g} {unit}"])
    return table(["what", "ratio (median, range)", "ReGround", "TRL"], rows)


def load() -> str:
    """`reground serve` under load, beside offline evaluation and a server without batches."""
    result = read("serving")
    rows = []
    for side, own in result["sides"].items():
        name, _, clients = side.partition(" ")
        label = {"offline": "`reground eval`", "reground": "`reground serve`"}.get(name, "LitServe")
        waits = [
            f"{1000 * own[what]['median']:.0f} ms" if what in own else ""
            for what in ("p50_s", "p99_s")
        ]
        rows.append([label, clients, spread(own["per_s"], "/s"), *waits])
    offline, alone = (
        spread(result[f"ratio to {what} at 32 clients"], "times")
        for what in ("offline", "one by one")
    )
    mib, config = result["soak"]["mib"], result["config"]
    return table(["what answers", "clients", "questions a second", "p50", "p99"], rows) + (
        f"\nAt 32 clients the server answers {offline} as many as the evaluation and {alone} as "
        f"many as LitServe. Over {result['soak']['questions']:,} questions it takes {min(mib):.0f} "
        f"to {max(mib):.0f} MiB ({mib[0]:.0f} after the first tenth, {mib[-1]:.0f} at the end). "
        f"{config['questions']} questions a row (a quarter for one client), medians (ranges) of "
        f"{config['repeats']} turns.\n"
    )


def vllm() -> str:
    """A real vLLM beside the trainer."""
    forms = {"in process": read("vllm"), "server": read("vllm_server")}
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
    return table(head, rows)


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
        for name, own in read("recipes").items()
        if isinstance(own, dict) and "hours" in own
    ]
    head = ["recipe (derived)", "GPUs", "memory of each", "steps", "a step", "in all"]
    return table(head, rows)


def models() -> str:
    """What asking each supported checkpoint would need; derived, not measured."""
    rows = [
        [
            f"`--model {name}`",
            own["gpu"],
            f"{own['gib']} GiB",
            own["image tokens"],
            f"{own['direct_s']} s",
            f"{own['think_s']} s",
        ]
        for name, own in read("models").items()
        if isinstance(own, dict) and "gib" in own
    ]
    head = ["checkpoint (derived)", "GPU", "memory", "tokens of an image", "direct", "think"]
    return table(head, rows)


def data() -> str:
    """What data cost at scale, before and now."""
    result = read("data")
    config, (old, new) = result["config"], (result["data"][side] for side in ("old", "new"))
    shown = {
        "convert": (f"convert {config['rows']:,} rows", "s"),
        "first open": ("open them the first time", "s"),
        "open": ("open them again, as every rank does", "s"),
        "score": (f"score {config['answers']:,} answers, with report.json", "s"),
        "pages": ("draw their report", "s"),
        "validate": (f"validate {config['photos']:,} photos of 1600 x 1200", "wall_s"),
    }
    rows = [
        [label, *(f"{spread(side[what][unit], 's')}, {side[what]['mib']['median']:.0f} MiB"
                  for side in (old, new))]
        for what, (label, unit) in shown.items()
    ]  # fmt: skip
    return table(["what", f"before (`{config['old'][:7]}`)", "now"], rows)
