"""The stages of ``reground teach``, each as a command runs it: with a bar, and a line about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from reground.teacher.ask import Asked
    from reground.teacher.calling import Outcome
    from reground.teacher.rows import Call
    from reground.teacher.settings import TeachConfig
    from reground.teacher.store import Store


def ask(store: Store, settings: TeachConfig) -> Asked:
    """Ask for the chains that are left, and say what came of it."""
    from reground.teacher import ask
    from reground.teacher.changes import changes

    with _shown(store, "asking") as bar:
        done = ask.ask(store, settings, begin=bar.begin, watch=bar.watch)
    for line in _told(done, settings, store.counts().cost):
        typer.echo(line)
    for count, old, new in changes(store.settings("chains"), done.settings):
        typer.echo(
            f"the store also holds {count} chains asked for with {old}; {new} is for new ones"
        )
    return done


def verify(store: Store, settings: TeachConfig, *, again: bool = False) -> None:
    """Verify what has no verdict; with ``again`` everything."""
    from reground.teacher import verify
    from reground.teacher.changes import changes

    counts = verify.verify(store, settings.verify, again=again)
    told = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    typer.echo(f"{settings.store}: {counts.total()} chains verified: {told or 'none was left'}")
    for count, old, new in changes(store.settings("verdicts"), verify.noted(settings.verify)):
        typer.echo(f"{count} chains were verified with {old}; --again applies {new}")


def judge(store: Store, settings: TeachConfig, *, again: bool = False) -> int:
    """Pick chains; returns how many samples wait for a judge."""
    from reground.teacher import judge
    from reground.teacher.changes import changes

    with _shown(store, "judging") as bar:
        judged = judge.judge(store, settings, again=again, begin=bar.begin, watch=bar.watch)
    counts = store.counts()
    told = ", ".join(f"{n} by {rule}" for rule, n in counts.picks.items())
    typer.echo(
        f"{settings.store}: {judged.picked} picked now; in all {told or 'none'}; {counts.ties} ties"
    )
    for count, old, new in changes(store.settings("picks"), judge.noted(settings)):
        typer.echo(f"{count} picks were made with {old}; --again applies {new}")
    if judged.overtaken:
        told = "samples have verified chains newer than their pick; --again considers them"
        typer.echo(f"{judged.overtaken} {told}")
    for line in _troubles(judged.outcome) if judged.outcome else ():
        typer.echo(line)
    if judged.waiting:
        typer.echo(f"{judged.waiting} samples wait for the judge; the same command asks again")
    return judged.waiting


def export(store: Store, settings: TeachConfig) -> None:
    """Write the files and the data card."""
    from reground.teacher import export
    from reground.teacher.card import write_card

    exported = export.export(store, settings.export)
    for name, count in exported.rows.items():
        typer.echo(f"{exported.folder / name}: {count} rows")
    for reason, count in exported.left_out.items():
        typer.echo(f"{reason}: {count}")
    for note in exported.notes:
        typer.echo(note)
    typer.echo(f"{write_card(store, exported)}")


def _told(done: Asked, settings: TeachConfig, cost: float) -> Iterator[str]:
    answered, outcome = done.total - done.left, done.outcome
    line = f"{settings.store}: {answered} of {done.total} chains, {outcome.answered} of them now"
    yield line + (f"; cost so far {cost:.2f}" if cost else "")
    yield from _troubles(outcome)
    if done.left:
        yield f"{done.left} are left; the same command asks for them"


def _troubles(outcome: Outcome) -> Iterator[str]:
    from collections import Counter

    for reason, count in Counter(outcome.errors).most_common(3):
        yield f"{count} without an answer: {reason}"
    if outcome.stopped:
        yield f"stopped: {outcome.stopped}"


@contextmanager
def _shown(store: Store, title: str) -> Iterator[_Bar]:
    """A bar that shows rate, cost and the remaining time, where there is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        Remaining(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        bar.add_task("", total=None, rate="")
        yield _Bar(bar, store.counts().cost)


@dataclass(slots=True)
class _Bar:
    """What a stage tells of its calls; ``cost`` is that of the database so far."""

    bar: Progress
    cost: float

    def begin(self, done: int, total: int) -> None:
        self.bar.update(self.bar.task_ids[0], completed=done, total=total)

    def watch(self, call: Call) -> None:
        self.cost += call.cost
        rate = f"{self.bar.tasks[0].speed or 0:.1f}/s"
        rate += f", cost {self.cost:.2f}" if self.cost else ""
        self.bar.update(self.bar.task_ids[0], advance=call.state == "answered", rate=rate)
