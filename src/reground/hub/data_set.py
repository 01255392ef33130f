"""A data set for the hub: its rows, the pictures that they show, and its card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from reground.data.arrow import write_parquet
from reground.data.source import read_dataset
from reground.errors import DataError
from reground.evaluation.reporting.pages import render
from reground.grounding.sample import Sample

CARD = "README.md"

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
_ASIDE = ".rejected"  # what a conversion could not use


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one JSONL; ``name`` is that of its split."""

    name: str
    samples: Sequence[Sample]

    @property
    def counts(self) -> dict[str, int]:
        """How much of everything there is."""
        return {
            "rows": len(self.samples),
            "pictures": len({image.path for each in self.samples for image in each.images}),
            "true boxes": sum(len(each.targets) for each in self.samples),
            "chains of thought": sum(each.think is not None for each in self.samples),
            "with a detector's boxes": sum(each.tool_results is not None for each in self.samples),
        }


def read_parts(source: Path) -> list[Part]:
    """Those of a JSONL, or of all in a folder; raises ``DataError`` for rows that are not sound."""
    files = [source]
    if source.is_dir():
        files = sorted(each for each in source.glob("*.jsonl") if not each.stem.endswith(_ASIDE))
    if not files or not all(file.suffix == ".jsonl" for file in files):
        raise DataError(f"{source}: expected a .jsonl of samples, or a folder that holds some")
    parts = [Part(_split(file), read_dataset(str(file))) for file in files]
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"{source}: two files would be the split {twice[0]!r}; give their names other endings, "
            "as cells.train.jsonl and cells.val.jsonl"
        )
    return parts


@contextmanager
def files_of(
    parts: Sequence[Part], *, name: str, license: str | None
) -> Iterator[dict[str, Path | bytes]]:
    """Card and Parquet, pictures within, by their paths in the repository ``name``.

    The files are there inside the ``with``. Raises ``DataError`` for a picture that is not.
    """
    with TemporaryDirectory() as folder:
        files: dict[str, Path | bytes] = {
            f"data/{file.name}": file
            for part in parts
            for file in write_parquet(part.samples, Path(folder), part.name)
        }
        yield {CARD: _card(parts, name=name, license=license).encode(), **files}


def _card(parts: Sequence[Part], *, name: str, license: str | None) -> str:
    from huggingface_hub import DatasetCard, DatasetCardData

    every = [each for part in parts for each in part.samples]
    data = DatasetCardData(
        license=license,
        task_categories=["image-text-to-text"],
        tags=["visual-grounding", "reground"],
        size_categories=[next((size for most, size in _SIZES if len(every) < most), "n>1M")],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": part.name, "path": f"data/{part.name}-*"} for part in parts
                ],
            }
        ],
    )
    text = render(
        "data.md.j2",
        "reground.hub",
        metadata=data.to_yaml(),
        name=name,
        parts=parts,
        tasks=Counter(each.task for each in every).most_common(),
        classes=Counter(each.strata["class"] for each in every if "class" in each.strata),
    )
    DatasetCard(text)  # raises where the hub could not read it
    return text


def _split(file: Path) -> str:
    """The split of a file: the last part of its stem, as train of cells.train.jsonl."""
    return re.sub(r"\W+", "_", file.stem.rpartition(".")[2], flags=re.ASCII)
