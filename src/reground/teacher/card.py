"""The data card: what a set of chains holds, how it was made, and what that cost."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reground.data.tasks import in_order
from reground.evaluation.reporting.pages import percent, render, span
from reground.io import write_text
from reground.teacher import sharegpt
from reground.teacher.export import DIRECT, REASONED, ExportedChains
from reground.teacher.review.results import results, wilson
from reground.teacher.rows import Entry, Rejection
from reground.teacher.settings import as_overrides
from reground.teacher.store import Store

NAME = "README.md"

_RULES = {"only": "being the only one", "rule": "the rule", "judge": "the judge"}


@dataclass(slots=True)
class Funnel:
    """How far the samples of one task came, all counted."""

    samples: int = 0
    answered: int = 0
    unverified: int = 0
    verified: int = 0
    with_verified: int = 0
    picked: int = 0
    ties: int = 0
    reasons: Counter[Rejection] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Entry) -> None:
        """Count one sample."""
        findings = [chain.finding for chain in entry.chains if chain.finding is not None]
        verified = sum(finding.ok for finding in findings)
        self.samples += 1
        self.answered += len(entry.chains)
        self.unverified += len(entry.chains) - len(findings)
        self.verified += verified
        self.with_verified += verified > 0
        self.reasons.update(finding.reason for finding in findings if finding.reason)
        if entry.pick is not None:
            self.picked += 1
            self.ties += entry.pick.tie
            self.rules[entry.pick.rule] += 1


def write_card(store: Store, exported: ExportedChains) -> Path:
    """Write the card into the folder of the exported files; returns its path."""
    path = exported.folder / NAME
    write_text(path, render("card.md.j2", "reground.teacher", **facts(store), **_files(exported)))
    return path


def facts(store: Store) -> dict[str, Any]:
    """What the database says of its samples, chains, picks, reviews and calls."""
    tallies: dict[str, Funnel] = defaultdict(Funnel)
    total = Funnel()
    for entry in store.entries():
        tallies[entry.sample.task].add(entry)
        total.add(entry)
    reviewed = results(store.latest_reviews(), tasks=store.picked())
    return {
        "meta": store.meta(),
        "verified_with": [as_overrides(json.loads(made)) for made in store.settings("verdicts")],
        "total": total,
        "tasks": {task: tallies[task] for task in in_order(tallies)},
        "reasons": [reason for reason in Rejection if total.reasons[reason]],
        "chains": _share(total.verified, total.answered - total.unverified),
        "samples": _share(total.with_verified, total.samples),
        "reviewed": reviewed.overall,
        "accepted": _share(reviewed.overall.accepted, reviewed.overall.n),
        "agreement": next(iter(reviewed.agreements), None),
        "spent": store.spent(),
    }


def _share(hits: int, n: int) -> str:
    """A share with Wilson's 95 % interval; a dash where nothing was counted."""
    return f"{percent(hits / n)} % ({span(wilson(hits, n))}; {hits} of {n})" if n else "–"  # noqa: RUF001


def _files(exported: ExportedChains) -> dict[str, Any]:
    rows, folder = exported.rows, exported.folder
    return {
        "files": [(name, count, _sha256(folder / name)) for name, count in rows.items()],
        "reasoned": rows.get(REASONED, 0),
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
