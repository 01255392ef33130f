"""The data card: what a set of chains holds, how it was made, and what that cost."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reground.data.benchmarks import in_order
from reground.evaluation.reporting.pages import percent, render, span
from reground.io import write_text
from reground.teacher import sharegpt
from reground.teacher.export import ExportedChains
from reground.teacher.review.results import results, wilson
from reground.teacher.rows import Entry, Rejection
from reground.teacher.settings import as_overrides
from reground.teacher.store import Store

NAME = "README.md"

_RULES = {"only": "being the only one", "rule": "the rule", "judge": "the judge"}


def write_card(store: Store, exported: ExportedChains) -> Path:
    """Write the card into the folder of the exported files; returns its path."""
    path = exported.folder / NAME
    hashes = {name: _sha256(exported.folder / name) for name in exported.rows}
    protocols = sharegpt.REASONED, sharegpt.DIRECT
    given = facts(store) | {
        "exported": exported,
        "hashes": hashes,
        "profiles": [protocol.profile for protocol in protocols],
    }
    write_text(path, render("card.md.j2", "reground.teacher", **given))
    return path


def facts(store: Store) -> dict[str, Any]:
    """What the database says of its samples, chains, picks, reviews and calls."""
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in store.entries():
        tallies[entry.sample.task].update(_steps(entry))
    total = sum(tallies.values(), Counter[str]())
    reviewed = results(store.latest_reviews(), tasks=store.picked())
    return {
        "meta": store.meta(),
        "verified_with": [as_overrides(json.loads(made)) for made in store.settings("findings")],
        "total": total,
        "tasks": {task: tallies[task] for task in in_order(tallies)},
        "reasons": [reason for reason in Rejection if total[reason]],
        "chains": _share(total["verified"], total["answered"] - total["unverified"]),
        "samples": _share(total["with_verified"], total["samples"]),
        "reviewed": reviewed.overall,
        "accepted": _share(reviewed.overall.accepted, reviewed.overall.n),
        "agreement": next(iter(reviewed.agreements), None),
        "rules": [(name, total[rule]) for rule, name in _RULES.items() if total[rule]],
        "spent": store.spent(),
    }


def _steps(entry: Entry) -> Iterator[str]:
    """How far a sample came: every word is counted."""
    yield "samples"
    for chain in entry.chains:
        yield "answered"
        yield "unverified" if chain.finding is None else chain.finding.reason or "verified"
    if entry.verified:
        yield "with_verified"
    if entry.pick is not None:
        yield from ("picked", entry.pick.rule)
        if entry.pick.tie:
            yield "ties"


def _share(hits: int, n: int) -> str:
    """A share with Wilson's 95 % interval; a dash where nothing was counted."""
    return f"{percent(hits / n)} % ({span(wilson(hits, n))}; {hits} of {n})" if n else "–"  # noqa: RUF001


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
