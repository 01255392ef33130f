"""The command line: one small module per verb.

Each module ``reground.cli.VERB`` holds ``command``: a function with Typer's options, or a Typer
with verbs of its own. Modules import nothing heavy at their top, so that ``--help`` answers at
once.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Annotated

import typer

from reground.errors import UserError

_VERBS = (
    "predict",
    "start",
    "data",
    "benchmarks",
    "reproduce",
    "tool",
    "teach",
    "recipes",
    "headroom",
    "train",
    "export",
    "eval",
    "merge",
    "score",
    "report",
    "compare",
    "harness",
    "serve",
    "demo",
)

_EXAMPLES = """\b
Examples:
  reground demo
  reground predict photo.jpg "the cup left of the laptop"
  reground start my_photos
  reground data convert voc VOC2007 --split train --out train.jsonl
  reground benchmarks mig_bench
  reground reproduce univg_r1 --benchmark mig_bench --dry-run
  reground tool run --tool IDEA-Research/grounding-dino-tiny --data val.jsonl --out weak.jsonl
  reground teach ask teach.yaml teacher.url=http://127.0.0.1:8000/v1
  reground recipes copy bccd/sft --out mine.yaml
  reground headroom bccd/grpo model=runs/photos
  reground train bccd/sft optim.lr=1e-4 --out runs/photos
  reground export runs/photos --out models/photos
  reground eval --model runs/photos --data test.jsonl --out results/photos
  reground score results/photos --out results/photos
  reground report results/photos
  reground compare results/base results/photos --out results/compared
  reground serve --model runs/photos

`reground VERB --help` says more about each.
"""

# What stops a command although nothing is wrong with it: rights, full disks, folders in the way,
# paths that no file can have.
_SURROUNDINGS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "no-right-to-write"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "no-space-left"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
        "paths-that-no-file-can-have",
    ),
}

_EXTRAS = {
    "train": {"accelerate", "peft", "safetensors", "tensorboard", "torch", "transformers"},
    "hub": {"huggingface_hub"},
    "serve": {"fastapi", "prometheus_client", "starlette", "uvicorn"},
}

app = typer.Typer(
    name="reground",
    help="Post-train and evaluate vision-language models that point at what you mean.",
    epilog=_EXAMPLES,
    rich_markup_mode=None,  # plain help starts twice as fast, and its examples can be copied
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


def main() -> None:
    """Run the command line: a user's error is one sentence and exit code 2, no traceback."""
    try:
        app()
    except UserError as error:
        _fail(str(error), error.help)
    except ModuleNotFoundError as error:
        extra = next((extra for extra, names in _EXTRAS.items() if error.name in names), None)
        if extra is None:
            raise
        _fail(
            f"{error.name} is not installed; this needs pip install 'reground[{extra}]'",
            "not-installed",
        )
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            raise
        sentence = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        _fail(sentence, _SURROUNDINGS[error.errno])
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        found = str(error).partition("\n")[0].partition(" GPU ")[0].rstrip(".")
        _fail(f"{found}; show fewer pixels, a smaller model or fewer at a time", "out-of-memory")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"reground {version('reground')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options before the verb; the group's help is the app's."""


def _fail(sentence: str, help: str) -> None:
    typer.echo(f"error: {sentence} (help: docs/troubleshooting.md#{help})", err=True)
    sys.exit(2)


def _register(verb: str) -> None:
    command = importlib.import_module(f"reground.cli.{verb}").command
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=verb)
    else:
        app.command(verb)(command)


for _verb in _VERBS:
    _register(_verb)
