"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reground.data.confine import confined_to
from reground.grounding.names import ProtocolName


def _confine(context: typer.Context, folder: Path | None) -> Path | None:
    if folder is not None:
        context.with_resource(confined_to(folder))
    return folder


Engine = Literal["transformers", "vllm"]
DType = Literal["float32", "bfloat16", "float16"]

DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE", help="cpu, cuda or cuda:N. Default: the GPU where there is one."
    ),
]
DTypeOption = Annotated[
    DType | None,
    typer.Option(help="Of the weights. Default: the checkpoint's, and float32 on a CPU."),
]
EngineOption = Annotated[
    Engine, typer.Option(help="What samples: transformers, or vllm (pip install 'reground[vllm]').")
]
FontOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Font of pictures; default: one that has the letters."),
]
ConfineOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        callback=_confine,
        help="For data of strangers: open no picture and no annotation outside DIR.",
    ),
]
MinPixelsOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Images are shown at N pixels or more."),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Images are shown at N pixels or fewer. Default: as the authors of a benchmark named "
        "by --data show them, else as the checkpoint's processor does.",
    ),
]
MaxTokensOption = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
FamilyOption = Annotated[
    str | None,
    typer.Option(help="How the model writes boxes, as qwen3_vl. Default: as its checkpoint."),
]
ToolOption = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="A detector to ask first (see `reground tool run --help`), or precomputed.",
    ),
]
ProtocolOption = Annotated[
    ProtocolName | None,
    typer.Option(
        help="direct: boxes alone; think: after a chain of thought; think_rethink: it thinks, "
        "calls for a detector's boxes and rethinks; piter: they are shown with the question. "
        "Default: what each row says, else what the model was trained to; with predict --tool, "
        "where that shows no boxes, piter."
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        metavar="SPEC", help="A JSONL, synth:TASK, or a name that `reground benchmarks` lists."
    ),
]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for predictions, scores, report.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="A run, a checkpoint folder, a hub id, or tiny; the served name with --endpoint.",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Which scenes synth:TASK draws.")]
LimitOption = Annotated[int | None, typer.Option(help="How many samples; needed for synth:TASK.")]
ShardOption = Annotated[
    str | None, typer.Option(metavar="I/N", help="Ask one part of N; then `reground merge`.")
]
SamplesOption = Annotated[
    int,
    typer.Option(
        "--samples",
        min=1,
        max=256,
        metavar="K",
        help="Sample K answers to each question: their mean, the best, and their vote.",
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(min=0.0, max=10.0, help="Of sampling; default: 1 with --samples, else 0."),
]
PromptOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The prompt: a text with $question and, for a tool, [[tool]] (docs/published.md), "
        "or a profile's name.",
    ),
]
BlankOption = Annotated[
    bool, typer.Option("--blank", help="Grey images: what the model guesses without looking.")
]
PrivateOption = Annotated[
    bool, typer.Option("--private", help="Let nobody but OWNER see the new repository.")
]
LicenseOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Its licence as the hub names it, as mit; else none is named."
    ),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Ask an OpenAI-compatible server, with OPENAI_API_KEY if it is set."
    ),
]
ProcessorOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Whose image processor the server has: images are sent resized."
    ),
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="X",
        help="An answer with a box less sure than X is an abstention: it has no boxes.",
    ),
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="Requests at a time.")]
TimeoutOption = Annotated[float, typer.Option(min=1, help="Seconds to wait for a reply.")]
