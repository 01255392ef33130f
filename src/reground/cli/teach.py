"""``reground teach``: chains of thought from a teacher, verified, judged and reviewed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

command = typer.Typer(
    help="Make chains of thought for supervised training: a teacher writes them, and every stage "
    "keeps what it did in one SQLite database, so that any of them can be stopped and run again.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|KEY=VALUE",
        help="A config of all stages (YAML), and settings that replace its own.",
        show_default=False,
    ),
]

Again = Annotated[
    bool,
    typer.Option(
        "--again", help="Verify all chains, or pick for all samples, anew, as after other settings."
    ),
]


@command.command()
def ask(arguments: Arguments = None) -> None:
    """Ask a teacher for n chains of every sample; it is shown the images and the true boxes.

    Every answer is stored as it comes. The same command goes on where a stopped or killed one was:
    no answered call is made again, and one that failed is. Ctrl-C waits for the running calls.

    \b
    Settings:
      store=FILE            the database; made from data= if there is none
      data=SPEC             a JSONL, synth:TASK (with limit=), or a benchmark's name; or several
                            of them, as [synth:diff,synth:region], limit= of each
      limit=N               how many samples of each are taken
      seed=41               which scenes synth:TASK draws; not the seed of an evaluation (7 unless
                            you say otherwise), whose very scenes would be trained on
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
      reground teach ask teach.yaml teacher.requests_per_minute=600 ask.max_cost=20
      reground teach ask teach.yaml ask.max_cost=30
    """
    from reground.cli.stages import opened

    with opened(arguments, make=True) as stages:
        if not stages.ask():
            raise typer.Exit(1)


@command.command()
def verify(arguments: Arguments = None, again: Again = False) -> None:
    """Verify chains without a model: each is kept, or rejected with a reason.

    In this order, the first that fails: form; wrong_box (IoU with the truth, number of boxes);
    short, long; repetition; leak (words that betray that the answer was given); coordinates in
    the reasoning; wrong_image (another image is named as the target's).

    \b
    Settings:
      store=FILE
      verify.min_iou=0.5 verify.min_words=5 verify.max_words=400 verify.max_repeated=0.5

    \b
    Examples:
      reground teach verify store=chains.db
      reground teach verify teach.yaml verify.min_iou=0.9 --again
    """
    from reground.cli.stages import opened

    with opened(arguments) as stages:
        stages.verify(again=again)


@command.command()
def judge(arguments: Arguments = None, again: Again = False) -> None:
    """Pick the best verified chain of every sample: by a judge, or by a rule.

    A judge sees the images, the true boxes and the chains, in as many orders as there are chains,
    so that no place has an advantage; most votes win. Without a judge, and in a tie, the rule
    picks: the boxes that fit best, then the median length, then the first.

    \b
    Settings:
      store=FILE
      judge.teacher.url=URL judge.teacher.model=NAME    and the others of `teach ask`'s teacher
      judge.teacher.prompt_price=X judge.teacher.completion_price=X    of a million tokens
      judge.prompt=judge    a profile, or a .txt file with $question, $boxes and $chains
      judge.rotations=N     fewer orders than chains, which is cheaper and fair no more
      judge.max_tokens=512
      judge.max_cost=X      the budget of the database, asking included; needs the prices

    \b
    Examples:
      reground teach judge store=chains.db
      reground teach judge teach.yaml judge.teacher.url=http://127.0.0.1:8000/v1 \\
        judge.teacher.model=Qwen/Qwen2.5-VL-72B-Instruct --again
    """
    from reground.cli.stages import opened

    with opened(arguments) as stages:
        if not stages.judge(again=again):
            raise typer.Exit(1)


@command.command()
def review(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="The database of chains, or store=FILE.")
    ],
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
    served to this machine alone; its address holds a secret. It needs reground[serve].

    \b
    Examples:
      reground teach review chains.db
      reground teach review chains.db --reviewer eva --port 8000 --no-open
    """
    from reground.serving.app import make_app
    from reground.serving.guard import Rules
    from reground.serving.review import ReviewPages
    from reground.serving.run import address_of, listening, until_stopped
    from reground.teacher.review.session import Session

    path = Path(store.removeprefix("store="))
    session = Session.begin(path, reviewer=reviewer or login(), share=share, seed=seed)
    review = ReviewPages(session)
    with listening("127.0.0.1", port) as listener:
        address = address_of(listener)
        chosen = f"{len(session.queue)} of {session.num_picked} picked chains"
        typer.echo(f"{path}: {chosen} to look at, as {session.reviewer}")
        typer.echo(f"{address}{review.path}\nCtrl-C ends; every decision is stored as it is made")
        opens = f"{address}/review/open/{review.ticket}" if open_browser else None
        until_stopped(make_app(None, Rules(max_body=200_000), review), listener, opens=opens)
    own = session.tally()
    typer.echo(
        f"{path}: {own.n} of {len(session.queue)} judged by {own.name}: {own.accepted} accepted, "
        f"{own.edited} edited, {own.rejected} rejected"
    )


@command.command()
def export(
    arguments: Arguments = None,
    copy_images: Annotated[
        bool,
        typer.Option("--copy-images", help="Copy all images too; as export.copy_images=true."),
    ] = False,
) -> None:
    """Write the picked chains for training, with a data card (README.md).

    sft.jsonl is for `reground train`, sharegpt.jsonl with dataset_info.json for LLaMA-Factory.
    A chain that a reviewer edited is written as edited, a rejected one is left out. Images are
    referenced where they are.

    \b
    Settings:
      store=FILE
      export.out=chains     the folder
      export.copy_images=true       copy all images too; scenes and views are drawn
      export.direct_tasks=[NAME]    rows about one image without reasoning, as UniVG-R1 trains on
                            RefCOCO: in sft_direct.jsonl, under the protocol direct

    \b
    Examples:
      reground teach export store=chains.db export.out=runs/chains
      reground teach export teach.yaml --copy-images
    """
    from reground.cli.stages import opened

    copying = ["export.copy_images=true"] if copy_images else []
    with opened([*(arguments or []), *copying]) as stages:
        stages.export()


@command.command()
def run(arguments: Arguments = None, again: Again = False) -> None:
    """Ask, verify, judge and export, one after the other; `reground teach review` is for people.

    Every stage does what is not done yet, so the same command goes on after a stop. The settings
    are those of all stages: `reground teach ask --help` and the others say which there are.

    \b
    Examples:
      reground teach run tiny/teach
      reground teach run teach.yaml ask.max_cost=20 export.copy_images=true
      reground teach run store=chains.db data=photos.jsonl teacher.url=http://127.0.0.1:8000/v1 \\
        teacher.model=Qwen/Qwen2.5-VL-72B-Instruct
    """
    from reground.cli.stages import opened

    with opened(arguments, make=True) as stages:
        is_asked = stages.ask()
        stages.verify(again=again)
        is_judged = stages.judge(again=again)
        stages.export()
    if not (is_asked and is_judged):
        raise typer.Exit(1)


def login() -> str:
    """Who uses the machine; raises ``ConfigError`` where nobody can say."""
    import getpass

    from reground.errors import ConfigError

    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):
        raise ConfigError("found no login name; say who decides with --reviewer NAME") from None
