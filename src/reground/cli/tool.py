"""``reground tool``: detectors whose boxes a model checks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reground.cli.options import ConfineOption

if TYPE_CHECKING:
    from reground.grounding.sample import Sample
    from reground.rollout.tools.results import Filled

command = typer.Typer(
    help="Ask detectors, whose boxes a model then checks.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@command.command()
def run(
    tool: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="A zero-shot detector as a folder or hub id (Grounding DINO, MM-Grounding-DINO, "
            "OWLv2, OWL-ViT), the http(s) address of a detector, my_tools.py:Mine, oracle:weak or "
            "oracle:strong, or a tool_results.jsonl.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="SPEC", help="A JSONL, synth:TASK, or a name that `reground benchmarks` lists."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL to write.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="How many samples; needed for synth:TASK.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which scenes synth:TASK draws.")] = 7,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a batch.")] = 300.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked together.")] = 8,
    confine: ConfineOption = None,
) -> None:
    """Ask a detector about every sample of a data set, and store its boxes (tool_results).

    The samples stay as they are otherwise. A sample without an answer keeps no tool_results, which
    is not the same as no box. What the tool says is also kept as it comes, for NAME.jsonl in
    NAME.tool_results.jsonl: the same command goes on where a killed one stopped, and asks again
    what got no answer. Exits with code 1, and does not write FILE, where no sample got one.

    A server gets one POST a question, {"image": PNG in base64, "expression": text}, and answers
    {"boxes": [{"box": [x1, y1, x2, y2], "label": text, "score": number}]} in pixels of that image;
    the environment's REGROUND_TOOL_KEY is sent as its bearer token.

    \b
    Examples:
      reground tool run --tool IDEA-Research/grounding-dino-tiny --data val.jsonl --out weak.jsonl
      reground tool run --tool http://127.0.0.1:8080/detect --data mig_bench --out boxes.jsonl
      reground tool run --tool oracle:weak --data synth:referring --limit 500 --out weak.jsonl
    """
    from reground.data.source import read_dataset, save_dataset
    from reground.rollout.tools.opening import open_tool
    from reground.rollout.tools.results import fill
    from reground.rollout.tools.runner import ToolRunner

    samples = read_dataset(data, seed=seed, limit=limit, sound=False)  # mends boxes
    opened = open_tool(tool, samples=samples)
    runner = ToolRunner(opened, timeout_s=timeout, batch_size=batch_size)
    rows = list(fill(samples, runner, path=_results(out)))
    failed = [row for row in rows if row.problem is not None]
    for line in _failures(rows):
        typer.echo(line, err=True)
    if len(failed) == len(rows):
        typer.echo(f"{out}: not written; no sample got an answer", err=True)
        raise typer.Exit(1)
    save_dataset(out, (row.sample for row in rows))
    typer.echo(f"{out}: {_summary([row.sample for row in rows if row.problem is None])}")
    if line := _dropped(runner.counts):
        typer.echo(line)
    if failed:
        typer.echo(f"{len(failed)} without an answer; the same command asks them again", err=True)


@command.command()
def chains(
    answers: Annotated[
        Path, typer.Argument(metavar="ANSWERS", help="A folder as `reground eval` writes it.")
    ],
    tool: Annotated[str, typer.Option(metavar="SPEC", help="As for `reground tool run`.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL to write.")],
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a batch.")] = 300.0,
) -> None:
    """Make chains that teach a model to think, call for a detector's box, and rethink.

    The first thought of a chain is what the model said in ANSWERS, the rest follows from the truth:
    keep a right box, else say so and give the sample's own chain. Train on FILE with
    `protocol: think_rethink`.

    \b
    Example:
      reground eval --model tiny --data synth:diff --seed 41 --limit 1500 --out runs/first
      reground tool chains runs/first --tool oracle:weak --out runs/chains.jsonl
    """
    from reground.data.source import save_dataset
    from reground.protocols.rethink import verdict
    from reground.teacher.rethink import chains as made

    samples = list(made(answers, tool, timeout_s=timeout, results=_results(out)))
    save_dataset(out, samples)
    counts = Counter(map(verdict, samples))
    found = ", ".join(f"{count} {each.name.lower()}" for each, count in sorted(counts.items()))
    typer.echo(f"{out}: {len(samples)} chains; the tool: {found}")


def _results(out: Path) -> Path:
    from reground.rollout.tools.results import TOOL_RESULTS

    return out.with_suffix(f".{TOOL_RESULTS}")


def _failures(rows: list[Filled]) -> list[str]:
    """The reasons for which there is no answer, the most frequent first."""
    reasons = Counter(row.problem for row in rows if row.problem is not None)
    lines = [f"{count} without an answer: {reason}" for reason, count in reasons.most_common(5)]
    return [*lines, f"and {len(reasons) - 5} other reasons"] if len(reasons) > 5 else lines


def _summary(samples: list[Sample]) -> str:
    from reground.evaluation.scoring.refinement import tool_iou
    from reground.grounding.answers import RIGHT

    found = sum(len(sample.tool_results or ()) for sample in samples)
    asked = [sample for sample in samples if sample.targets]
    line = f"{len(samples)} samples with {found / len(samples):.1f} boxes each"
    if asked:
        right = sum(tool_iou(sample) > RIGHT for sample in asked) / len(asked)
        line += f"; in {100 * right:.1f} % one is right (IoU above {RIGHT:g})"
    return line


def _dropped(counts: Counter[str]) -> str:
    prefix = "dropped_"
    parts = [
        f"{count} {key.removeprefix(prefix).replace('_', ' ')}"
        for key, count in sorted(counts.items())
        if key.startswith(prefix)
    ]
    return f"boxes dropped: {', '.join(parts)}" if parts else ""
