"""The card of a model: what it was made of, how to load, ask and read it, how good it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from reground.errors import DataError
from reground.evaluation.records import RunInfo, read_run
from reground.evaluation.reporting.pages import render
from reground.evaluation.reporting.report import REPORT
from reground.grounding.boxes import Box, FrameKind
from reground.grounding.codecs import EncodedSize
from reground.io import dump_yaml, parse_json, parse_yaml, write_text
from reground.protocols.choice import Answering, Protocols
from reground.runs import MARKER, RunDir

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"
PIPELINE = "image-text-to-text"

_FIGURES = {"acc@0.5": "Acc@0.5", "mean_iou": "mean IoU"}
_COUNTS: Mapping[FrameKind, str] = {
    FrameKind.PIXELS: "pixels of the image as its file holds it, after EXIF rotation",
    FrameKind.INPUT: "pixels of the resized image that the processor makes of it; scale them by "
    "the two sizes",
    FrameKind.THOUSAND: "thousandths of the image's width (x) and height (y)",
    FrameKind.UNIT: "shares of the image's width (x) and height (y)",
    FrameKind.SQUARE: "shares of the side of the square to which the image is padded",
    FrameKind.OF_999: "999ths of the image's width (x) and height (y)",
    FrameKind.OF_1024: "1024ths of the image's width (x) and height (y)",
    FrameKind.BINS: "the 1000 bins of the image's width (x) and height (y), each by its middle",
    FrameKind.PATCHES: "the 32 patches of each side of the image, each by its middle",
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation's folder says: how it was made, and its report.json."""

    run: RunInfo
    report: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, *, weights: str | None, model: Path) -> Evaluation:
        """That of a model with these ``weights``; raises ``DataError`` for another's."""
        run, path = read_run(folder), folder / REPORT
        if weights is None or run.weights != weights:
            raise DataError(
                f"{folder}: evaluates {run.model}, which has other weights than {model} has now; "
                f"expected the folder of `reground eval --model {model}`"
            )
        if not path.is_file():
            raise DataError(f"{path}: no such file; `reground report {folder}` writes it")
        return cls(run, parse_json(path.read_bytes()))

    @property
    def data(self) -> str:
        """What was asked, without the folders of this machine."""
        return str(public(self.run.data))

    @property
    def asked(self) -> str:
        """Under which protocol, with which detector."""
        tool = f", with {public(self.run.tool)}" if self.run.tool else ""
        return f"{self.run.protocol}{tool}"

    @property
    def n(self) -> str:
        """How many samples were scored; of how many, where some were not."""
        scored, all_asked = self.report["n"], self.run.num_samples
        return str(scored) if scored == all_asked else f"{scored} of {all_asked}"

    def results(self) -> Iterator[EvalResult]:
        """Its figures as a model card's metadata has them, with n and 95 % interval."""
        from huggingface_hub import EvalResult

        for key, name in _FIGURES.items() if self.report["n"] else ():
            figures = {
                "n": self.report["n"],
                "stderr": self.report[f"{key}_stderr"],
                "interval_95": self.report[f"{key}_interval"],
            }
            yield EvalResult(
                task_type=PIPELINE,
                task_name="visual grounding",
                dataset_type=re.sub(r"[^\w.-]+", "_", self.data),
                dataset_name=self.data,
                metric_type=key,
                metric_name=name,
                metric_value=self.report[key],
                metric_args=figures,
                dataset_args={"sha256": self.run.data_sha256, "seed": self.run.seed},
            )


def write_card(
    folder: Path,
    run: Path,
    *,
    name: str,
    step: int,
    evaluations: Sequence[Evaluation] = (),
    license: str | None = None,
) -> Path:
    """Write the card of the model that ``run`` had at ``step`` and ``folder`` holds.

    ``name`` is what others load it by. Returns the card's path.
    """
    from huggingface_hub import ModelCard, ModelCardData

    config = parse_yaml(RunDir(run).config.read_text(encoding="utf-8"), str(run))
    starts = [public(each) for each in lineage(run)]
    data = ModelCardData(
        model_name=name.rpartition("/")[2],
        license=license,
        base_model=starts[-1] if _is_hub_id(starts[-1]) else None,
        pipeline_tag=PIPELINE,
        library_name="transformers",
        tags=["visual-grounding", "reground"],
        eval_results=[each for found in evaluations for each in found.results()],
    )
    text = render(
        "model.md.j2",
        "reground.hub",
        metadata=data.to_yaml(),
        name=name,
        starts=starts,
        step=step,
        config=public(config),
        config_text=dump_yaml(public(config)),
        made=json.loads((run / "made.json").read_text(encoding="utf-8")),
        type=json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"],
        evaluations=evaluations,
        **_answers(folder),
    )
    ModelCard(text)  # raises where the hub could not read it
    write_text(folder / CARD, text)
    return folder / CARD


def lineage(run: Path) -> list[str]:
    """What the run started from, what that run started from, and so on to a model of no run."""
    found: list[str] = []
    folder = run
    while (folder / MARKER).is_file() and folder.resolve() not in map(_resolved, found):
        config = parse_yaml(RunDir(folder).config.read_text(encoding="utf-8"), str(folder))
        found.append(config["model"])
        folder = Path(config["model"])
    return found


def public(value: Any) -> Any:
    """A setting without what is this machine's alone: folders of absolute paths, and servers.

    >>> public({"data": "/home/anna/cells/train.jsonl", "url": "http://10.0.0.7:8000/v1"})
    {'data': '.../train.jsonl', 'url': 'http://...'}
    """
    match value:
        case str() if "://" in value:
            return value.partition("://")[0] + "://..."
        case str() if value.startswith(("/", "~")):
            return f".../{Path(value).name}"
        case dict():
            return {public(key): public(each) for key, each in value.items()}
        case list():
            return [public(each) for each in value]
    return value


def _answers(folder: Path) -> dict[str, Any]:
    """How the model of ``folder`` is asked and answers, with an example."""
    own = TypeAdapter(Answering).validate_json((folder / "reground.json").read_bytes())
    protocols = Protocols.of(own)
    protocol = protocols.get(protocols.usual)
    size = EncodedSize(640, 480, 644, 476)
    thought = "It is the one on the left."
    return {
        "family": own.family,
        "protocol": protocol.name,
        "is_one_turn": not protocol.plan.functions and not protocol.shows_tool,
        "prompt": _literal(
            protocol.profile.render(
                question="$question",
                num_images=1,
                tool="$tool" if protocol.profile.shows_tool else None,
            )
        ),
        "counts": _COUNTS[protocol.codec.frame],
        "size": size,
        "example": protocol.render(
            [Box(64, 120, 320, 360, size.pixels)], size=size, think=thought, rethink=thought
        ),
    }


def _literal(text: str) -> str:
    """A text as Python writes it, a line of it on each line."""
    lines = text.splitlines(keepends=True)
    return repr(text) if len(lines) < 2 else "(\n    " + "\n    ".join(map(repr, lines)) + "\n)"


def _is_hub_id(model: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) is not None and not Path(model).exists()


def _resolved(path: str) -> Path:
    return Path(path).resolve()
