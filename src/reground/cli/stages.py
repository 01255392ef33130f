"""The stages of ``reground teach``, each as a command runs it: with a bar, and a line about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reground.config import load
from reground.errors import ConfigError
from reground.teacher.ask import ask, open_store
from reground.teacher.calling import CallOutcome
from reground.teacher.card import write_card
from reground.teacher.export import export
from reground.teacher.judge import judge
from reground.teacher.rows import TeacherCall
from reground.teacher.settings import TeachConfig, changed, noted
from reground.teacher.store import Store
from reground.teacher.verify import verify

_DATABASES = (".db", ".sqlite", ".sqlite3")  # as they are commonly called


@contextmanager
def opened(arguments: Sequence[str] | None, *, make: bool = False) -> Iterator[Stages]:
    """The stages over the database of the settings, which may be made from their ``data``."""
    settings = _settings(arguments or [])
    with open_store(settings) if make else Store.open(Path(settings.store)) as store:
        yield Stages(settings, store)


def _settings(given: Sequence[str]) -> TeachConfig:
    """The settings of the config (the argument without "="), and those that replace them."""
    configs = [Path(each) for each in given if "=" not in each]
    for config in configs:
        if config.suffix in _DATABASES:
            raise ConfigError(f"found {config}, expected a config; say store={config}")
    if len(configs) > 1:
        found = " and ".join(map(str, configs))
        raise ConfigError(f"found {found}; expected one config, and settings as KEY=VALUE")
    overrides = [each for each in given if "=" in each]
    return load(TeachConfig, configs[0] if configs else None, overrides)


@dataclass(frozen=True, slots=True)
class Stages:
    """Runs stages over one database."""

    settings: TeachConfig
    store: Store

    def ask(self) -> bool:
        """Ask for the chains that are left; whether all are answered now."""
        with _Bar("asking", self.store) as bar:
            done = ask(self.store, self.settings, begin=bar.begin, watch=bar.watch)
        cost = self.store.counts().cost
        typer.echo(
            f"{self.settings.store}: {done.total - done.left} of {done.total} chains, "
            f"{done.answered} of them now" + (f"; cost so far {cost:.2f}" if cost else "")
        )
        _say_troubles(done)
        if done.left:
            typer.echo(f"{done.left} are left; the same command asks for them")
        sentence = "the store also holds {} chains asked for with {}; {} is for new ones"
        self._say_changed("chains", done.settings, sentence)
        return not done.left

    def verify(self, *, again: bool) -> None:
        """Verify the chains that are not verified yet; with ``again`` all of them."""
        counts = verify(self.store, self.settings.verify, again=again)
        found = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        total = counts.total()
        typer.echo(f"{self.settings.store}: {total} chains verified: {found or 'none was left'}")
        sentence = "{} chains were verified with {}; --again applies {}"
        self._say_changed("findings", noted(asdict(self.settings.verify)), sentence)

    def judge(self, *, again: bool) -> bool:
        """Pick chains; whether no sample waits for a judge."""
        with _Bar("judging", self.store) as bar:
            done = judge(self.store, self.settings, again=again, begin=bar.begin, watch=bar.watch)
        counts = self.store.counts()
        picks = ", ".join(f"{n} by {rule}" for rule, n in counts.picks.items()) or "none"
        typer.echo(
            f"{self.settings.store}: {done.picked} picked now; in all {picks}; {counts.ties} ties"
        )
        sentence = "{} picks were made with {}; --again applies {}"
        self._say_changed("picks", done.settings, sentence)
        if done.overtaken:
            newer = "samples have verified chains newer than their pick; --again considers them"
            typer.echo(f"{done.overtaken} {newer}")
        _say_troubles(done.outcome)
        if done.waiting:
            typer.echo(f"{done.waiting} samples wait for the judge; the same command asks again")
        return not done.waiting

    def export(self) -> None:
        """Write the files and the data card."""
        exported = export(self.store, self.settings.export)
        for name, count in exported.rows.items():
            typer.echo(f"{exported.folder / name}: {count} rows")
        for reason, count in exported.left_out.items():
            typer.echo(f"{reason}: {count}")
        for note in exported.notes:
            typer.echo(note)
        typer.echo(f"{write_card(self.store, exported)}")

    def _say_changed(
        self, what: Literal["chains", "findings", "picks"], now: str, sentence: str
    ) -> None:
        for count, old, new in changed(self.store.settings(what), now):
            typer.echo(sentence.format(count, old, new))


def _say_troubles(outcome: CallOutcome) -> None:
    for reason, count in outcome.errors.most_common(3):
        typer.echo(f"{count} without an answer: {reason}")
    if outcome.stopped:
        typer.echo(f"stopped: {outcome.stopped}")


class _Bar(Progress):
    """Shows rate, cost of the database and remaining time, where there is a terminal."""

    def __init__(self, title: str, store: Store) -> None:
        rate = TextColumn("{task.fields[rate]}")
        columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()
        console = Console(stderr=True)
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self.add_task("", total=None, rate="")
        self._cost = store.counts().cost

    def begin(self, done: int, total: int) -> None:
        """So many calls are done, of so many."""
        self.update(self._task, completed=done, total=total)

    def watch(self, call: TeacherCall) -> None:
        """One more call is stored."""
        self._cost += call.cost
        rate = f"{self.tasks[0].speed or 0:.1f}/s"
        rate += f", cost {self._cost:.2f}" if self._cost else ""
        self.update(self._task, advance=call.state == "answered", rate=rate)
