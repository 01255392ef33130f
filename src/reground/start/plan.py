"""The commands that ``reground start`` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reground.data.convert.parts import ALL, Part
from reground.start.steps import Step

_MANY = 200  # photos of which a tenth is enough to measure on
_VIEWS, _MOST_VIEWS = 40, 8000  # of a photo, and of all


@dataclass(frozen=True, slots=True)
class Plan:
    """What is converted, where everything goes, and by which seed photos get into parts."""

    parts: Sequence[Part]
    folder: Path
    out: Path
    images: Path | None
    seed: int

    @property
    def tested(self) -> Path:
        """The rows that models are measured on: of test, or of val where there is no test part."""
        has_test = any(part.name in (ALL, "test") for part in self.parts)
        return self._data("rows", "test" if has_test else "val")

    def seen(self, part: Part) -> Path:
        """The rows that :meth:`look` makes of a part."""
        return self._data("seen", part.name)

    def look(self) -> list[Step]:
        """Converts everything, with questions by class, and draws some of it."""
        first, picture = self.seen(self.parts[0]), self.out / "look.png"
        draw = ("data", "show", str(first), "--out", str(picture))
        seen = (self._convert(part, "seen", f"What is there ({part.name})") for part in self.parts)
        return [
            *(replace(step, reads=(self.folder,)) for step in seen),
            Step("What it looks like", draw, picture),
        ]

    def ask(self, photos: int, questions: Path, objects: Path) -> list[Step]:
        """Asks for all parts; where is trained also about views, and what every object is."""
        views = ("--views", str(min(_VIEWS, _MOST_VIEWS // max(photos, 1))))
        steps = []
        for part in self.parts:
            steps.append(self._ask(part, "rows", questions, photos))
            if part.name in (ALL, "train"):
                steps.append(self._ask(part, "views", questions, photos, *views))
                steps.append(self._ask(part, "objects", objects, photos, *views))
        return steps

    def train(self, model: str, configs: Sequence[Path]) -> list[Step]:
        """Measures, trains one stage after another, measures again and compares."""
        before, after, compared = (self.out / name for name in ("before", "after", "compared"))
        runs = [config.with_suffix("") for config in configs]
        report = ("report", str(after), "--training", str(runs[-1]))
        compare = ("compare", str(before), str(after), "--out", str(compared))
        return [
            self._measure("before training", model, before),
            *(
                Step(
                    f"Train {run.name}",
                    ("train", str(config)),
                    run,
                    (config,),
                    mark="checkpoints/*",
                    resumes=("--resume",),
                )
                for config, run in zip(configs, runs, strict=True)
            ),
            self._measure("after training", str(runs[-1]), after),
            Step("A page to look at, with the curves of training", report, after / "report.html"),
            Step("Compare", compare, compared),
        ]

    def _measure(self, when: str, model: str, out: Path) -> Step:
        line = ("eval", "--model", model, "--data", str(self.tested), "--out", str(out))
        return Step(
            f"Measure {when}", line, out, mark="predictions.jsonl", says=out.with_suffix(".txt")
        )

    def _ask(self, part: Part, kind: str, words: Path, photos: int, *more: str) -> Step:
        if part.name == ALL:
            shares = "0.8,0.1,0.1" if photos >= _MANY else "0.6,0.2,0.2"
            more = (*more, "--split-by", shares, "--seed", str(self.seed))
        asked = ("--questions", str(words), *more)
        step = self._convert(part, kind, f"Ask: {kind} of {part.name}", *asked)
        # It says what the first look said; the folder was read there, of which this is a chain.
        return replace(step, reads=(words,), says=step.makes.with_suffix(".txt"))

    def _convert(self, part: Part, kind: str, purpose: str, *more: str) -> Step:
        split = () if part.split is None else ("--split", part.split)
        images = () if self.images is None else ("--images", str(self.images))
        out = self._data(kind, "" if "--split-by" in more else part.name)
        made = self._data(kind, "train") if "--split-by" in more else out
        line = ("data", "convert", part.format, str(part.source), *split, *images, *more)
        return Step(purpose, (*line, "--out", str(out)), made)

    def _data(self, kind: str, part: str) -> Path:
        return self.out / "data" / ".".join(filter(None, (kind, part, "jsonl")))
