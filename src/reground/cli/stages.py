"""The stages of ``reground teach``, each as a command runs it: with a bar, and a line about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from reground.teacher.calling import CallOutcome
    from reground.teacher.rows import TeacherCall
    from reground.teacher.settings import TeachConfig
    from reground.teacher.store import Store


def ask(store: Store, settings: TeachConfig) -> CallOutcome:
    """Ask for the chains that are left, and say what came of it."""
    from reground.teacher import ask
    from reground.teacher.settings import changed

    with _shown(store, "asking") as bar:
        done = ask.ask(store, settings, begin=bar.begin, watch=bar.watch)
    cost = store.counts().cost
    typer.echo(
        f"{settings.store}: {done.total - done.left} of {done.total} chains, "
        f"{done.answered} of them now" + (f"; cost so far {cost:.2f}" if cost else "")
    )
    _say_troubles(done)
    if done.left:
        typer.echo(f"{done.left} are left; the same command asks for them")
    for count, old, new in changed(store.settings("chains"), done.settings):
        typer.echo(
            f"the store also holds {count} chains asked for with {old}; {new} is for new ones"
        )
    return done


def verify(store: Store, settings: TeachConfig, *, again: bool = False) -> None:
    """Verify the chains that are not verified yet; with ``again`` all of them."""
    from dataclasses import asdict

    from reground.teacher import verify
    from reground.teacher.settings import changed, noted

    counts = verify.verify(store, settings.verify, again=again)
    found = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    typer.echo(f"{settings.store}: {counts.total()} chains verified: {found or 'none was left'}")
    for count, old, new in changed(store.settings("verdicts"), noted(asdict(settings.verify))):
        typer.echo(f"{count} chains were verified with {old}; --again applies {new}")


def judge(store: Store, settings: TeachConfig, *, again: bool = False) -> int:
    """Pick chains; returns how many samples wait for a judge."""
    from reground.teacher import judge
    from reground.teacher.settings import changed

    with _shown(store, "judging") as bar:
        done = judge.judge(store, settings, again=again, begin=bar.begin, watch=bar.watch)
    counts = store.counts()
    by_rule = ", ".join(f"{n} by {rule}" for rule, n in counts.picks.items()) or "none"
    typer.echo(f"{settings.store}: {done.picked} picked now; in all {by_rule}; {counts.ties} ties")
    for count, old, new in changed(store.settings("picks"), done.settings):
        typer.echo(f"{count} picks were made with {old}; --again applies {new}")
    if done.overtaken:
        newer = "samples have verified chains newer than their pick; --again considers them"
        typer.echo(f"{done.overtaken} {newer}")
    _say_troubles(done.outcome)
    if done.waiting:
        typer.echo(f"{done.waiting} samples wait for the judge; the same command asks again")
    return done.waiting


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


def _say_troubles(outcome: CallOutcome) -> None:
    for reason in sorted(outcome.errors, key=lambda each: -outcome.errors[each])[:3]:
        typer.echo(f"{outcome.errors[reason]} without an answer: {reason}")
    if outcome.stopped:
        typer.echo(f"stopped: {outcome.stopped}")


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
    """Called by a stage as it goes; ``cost`` is that of the database so far."""

    bar: Progress
    cost: float

    def begin(self, done: int, total: int) -> None:
        self.bar.update(self.bar.task_ids[0], completed=done, total=total)

    def watch(self, call: TeacherCall) -> None:
        self.cost += call.cost
        rate = f"{self.bar.tasks[0].speed or 0:.1f}/s"
        rate += f", cost {self.cost:.2f}" if self.cost else ""
        self.bar.update(self.bar.task_ids[0], advance=call.state == "answered", rate=rate)
