"""``reground teach``: chains of thought from a teacher, verified, judged and reviewed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reground.teacher.ask import Asked
    from reground.teacher.settings import TeachConfig
    from reground.teacher.store import Store

command = typer.Typer(
    help="Make chains of thought for supervised training: a teacher writes them, and every stage "
    "keeps what it did in one SQLite database, so that any of them can be stopped and run again.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings of all stages (YAML).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings; they replace those of FILE.", show_default=False
    ),
]


@command.command()
def ask(overrides: Overrides = None, config: Config = None) -> None:
    """Ask a teacher for chains: of every sample n, who is shown the images and the true boxes.

    Every answer is stored as it comes. The same command goes on where a stopped or killed one was:
    no answered call is made again, and one that failed is. Ctrl-C waits for the running calls.

    \b
    Settings:
      store=FILE            the database; made from data= if there is none
      data=SPEC             a JSONL, synth:TASK (with limit=), or a benchmark's name
      teacher.url=URL       an OpenAI-compatible server, asked with OPENAI_API_KEY if it is set
      teacher.model=NAME    the name under which it serves
      teacher.concurrency=8 teacher.timeout_s=300 teacher.retries=8
      teacher.requests_per_minute=N teacher.tokens_per_minute=N
      teacher.prompt_price=X teacher.completion_price=X    of a million tokens
      ask.n=3 ask.temperature=0.9 ask.max_tokens=1024 ask.seed=0
      ask.prompt=teach      a profile, or a .txt file with $question and $boxes
                            (and, if wanted, $num_images and $image, the target's number)
      ask.max_pixels=1003520 ask.factor=1    larger images are sent smaller; factor: 28 or 32
      ask.max_calls=N ask.max_cost=X         the budget of the database, over all runs

    \b
    Examples:
      reground teach ask store=chains.db data=train.jsonl \\
        teacher.url=http://127.0.0.1:8000/v1 teacher.model=Qwen/Qwen2.5-VL-72B-Instruct
      reground teach ask --config teach.yaml teacher.requests_per_minute=600 ask.max_cost=20
      reground teach ask --config teach.yaml ask.max_cost=30
    """
    from reground.teacher.ask import open_store

    settings = _settings(config, overrides)
    with open_store(settings) as store:
        done = _ask(store, settings)
        cost = store.counts().cost
    for line in _told(done, settings, cost):
        typer.echo(line)
    if done.left:
        raise typer.Exit(1)


def _told(done: Asked, settings: TeachConfig, cost: float) -> Iterator[str]:
    from collections import Counter

    answered, outcome = done.total - done.left, done.outcome
    line = f"{settings.store}: {answered} of {done.total} chains, {outcome.answered} of them now"
    yield line + (f"; cost so far {cost:.2f}" if cost else "")
    for reason, count in Counter(outcome.errors).most_common(3):
        yield f"{count} without an answer: {reason}"
    if outcome.stopped:
        yield f"stopped: {outcome.stopped}"
    if done.left:
        yield f"{done.left} are left; the same command asks for them"


def _settings(config: Path | None, overrides: list[str] | None) -> TeachConfig:
    from reground.config import load
    from reground.teacher.settings import TeachConfig

    return load(TeachConfig, config, overrides or [])


def _ask(store: Store, settings: TeachConfig) -> Asked:
    """Ask beside a bar that shows rate, cost and the remaining time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from reground.teacher.ask import ask
    from reground.teacher.rows import Call

    columns = (
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        Remaining(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None, rate="")
        cost = store.counts().cost

        def begin(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        def watch(call: Call) -> None:
            nonlocal cost
            cost += call.cost
            speed = bar.tasks[0].speed
            rate = f"{speed or 0:.1f}/s" + (f", cost {cost:.2f}" if cost else "")
            bar.update(task, advance=call.state == "answered", rate=rate)

        return ask(store, settings, begin=begin, watch=watch)


@command.command()
def review(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The database of chains.")],
    share: Annotated[float, typer.Option(help="How much of each task is looked at.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Which chains these are.")] = 0,
    reviewer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decides; default: your login.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Whether a browser is opened.")
    ] = True,
) -> None:
    """Look at a share of the picked chains on a local page: accept, reject, edit.

    Every decision is stored as it is made; Ctrl-C ends, and the same command goes on. Several
    people review by running it on the same database, each under a name of their own. The page is
    served to this machine alone; its address holds a secret.

    \b
    Examples:
      reground teach review chains.db
      reground teach review chains.db --reviewer eva --port 8000 --no-open
    """
    from reground.teacher.review.server import Server
    from reground.teacher.review.session import Session

    session = Session.begin(store, reviewer=reviewer or _login(), share=share, seed=seed)
    with Server(session, port=port) as server:
        chosen = f"{len(session.queue)} of {session.num_picked} picked chains"
        typer.echo(f"{store}: {chosen} to look at, as {session.reviewer}")
        typer.echo(f"{server.url}\nCtrl-C ends; every decision is stored as it is made")
        server.run(open_browser=open_browser)
    own = session.tally()
    typer.echo(
        f"{store}: {own.n} of {len(session.queue)} judged by {own.name}: {own.accepted} accepted, "
        f"{own.edited} edited, {own.rejected} rejected"
    )


def _login() -> str:
    import getpass

    from reground.errors import ConfigError

    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):
        raise ConfigError("found no login name; say who decides with --reviewer NAME") from None
