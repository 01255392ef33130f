"""The data card: what a set of chains holds, how it was made, and what that cost."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reground.data.tasks import in_order
from reground.evaluation.reporting.pages import percent, render, span
from reground.runs import write_text
from reground.teacher import changes, sharegpt
from reground.teacher.export import DIRECT, THINKING, Exported
from reground.teacher.review.agreement import wilson
from reground.teacher.review.results import results
from reground.teacher.rows import Item, Reason, Stage
from reground.teacher.store import Store

NAME = "README.md"

_STAGES: tuple[Stage, ...] = ("ask", "judge")
_RULES = {"only": "being the only one", "rule": "the rule", "judge": "the judge"}


@dataclass(slots=True)
class Tally:
    """How far the samples of one task came, all counted."""

    samples: int = 0
    answered: int = 0
    unverified: int = 0
    verified: int = 0
    with_verified: int = 0
    picked: int = 0
    ties: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def add(self, item: Item) -> None:
        """Count one sample."""
        verdicts = [chain.verdict for chain in item.chains if chain.verdict is not None]
        verified = sum(verdict.ok for verdict in verdicts)
        self.samples += 1
        self.answered += len(item.chains)
        self.unverified += len(item.chains) - len(verdicts)
        self.verified += verified
        self.with_verified += verified > 0
        self.reasons.update(verdict.reason for verdict in verdicts if verdict.reason)
        if item.pick is not None:
            self.picked += 1
            self.ties += item.pick.tie
            self.rules[item.pick.rule] += 1


@dataclass(slots=True)
class Spent:
    """What the calls of one stage, model and prompt took."""

    answered: int = 0
    failed: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """A share with Wilson's 95 % interval."""

    hits: int
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """None where nothing was counted."""
        return wilson(self.hits, self.n) if self.n else None

    def __str__(self) -> str:
        if not self.n:
            return "–"  # noqa: RUF001
        return f"{percent(self.hits / self.n)} % ({span(self.interval)}; {self.hits} of {self.n})"


def write_card(store: Store, exported: Exported) -> Path:
    """Write the card beside the exported files; returns its path."""
    path = exported.folder / NAME
    write_text(path, render("card.md.j2", "reground.teacher", **facts(store), **_files(exported)))
    return path


def facts(store: Store) -> dict[str, Any]:
    """What the database says of its samples, chains, picks, reviews and calls."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    total = Tally()
    for item in store.items():
        tallies[item.sample.task].add(item)
        total.add(item)
    reviewed = results(store.latest_reviews(), tasks=store.picked())
    return {
        "meta": store.meta(),
        "verified_with": [changes.told(settings) for settings in store.settings("verdicts")],
        "total": total,
        "tasks": {task: tallies[task] for task in in_order(tallies)},
        "reasons": [reason for reason in Reason if total.reasons[reason]],
        "chains": Share(total.verified, total.answered - total.unverified),
        "samples": Share(total.with_verified, total.samples),
        "reviewed": reviewed.overall,
        "accepted": Share(reviewed.overall.accepted, reviewed.overall.n),
        "agreement": next(iter(reviewed.agreements), None),
        "spent": _spent(store),
    }


def _spent(store: Store) -> Mapping[tuple[str, str, str], Spent]:
    """By stage, model and hash of the prompt."""
    spent: dict[tuple[str, str, str], Spent] = defaultdict(Spent)
    for stage in _STAGES:
        for call in store.calls(stage=stage):
            row = spent[stage, call.model, call.prompt_sha256]
            row.answered += call.state == "answered"
            row.failed += call.state == "failed"
            row.requests += call.attempts
            row.prompt_tokens += call.prompt_tokens
            row.completion_tokens += call.completion_tokens
            row.cost += call.cost
            row.latency_s += call.latency_s
    return spent


def _files(exported: Exported) -> dict[str, Any]:
    rows, folder = exported.rows, exported.folder
    return {
        "files": [(name, count, _sha256(folder / name)) for name, count in rows.items()],
        "with_thinking": rows.get(THINKING, 0),
        "direct": rows.get(DIRECT, 0),
        "shared": rows.get(sharegpt.ROWS, 0),
        "profiles": list(sharegpt.profiles()),
        "left_out": exported.left_out,
        "copied": exported.copied,
        "rules": _RULES,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
