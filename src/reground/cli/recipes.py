"""``reground recipes``: the configs that come with the package, listed and copied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

command = typer.Typer(
    help="List the recipes, configs that come with the package, or copy one to edit.",
    rich_markup_mode=None,
)

_TIME = "Takes "  # how a line of a recipe's head begins that says how long it runs


@command.callback(invoke_without_command=True)
def table(context: typer.Context) -> None:
    """List the recipes: what each trains, how long, on what.

    A verb takes a recipe's name wherever it takes a config, unless a file of that name is there.

    \b
    Examples:
      reground recipes
      reground recipes copy bccd/sft --out mine.yaml
      reground train bccd/sft optim.lr=3e-4
    """
    if context.invoked_subcommand is not None:
        return
    from reground.recipes import names

    for name in names():
        typer.echo("\n    ".join(_lines(name)))


@command.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `reground recipes` lists it.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A new file; default: the recipe's name, here."),
    ] = None,
) -> None:
    """Write a recipe to edit, whole: it extends no other file, and works wherever it is put.

    \b
    Example:
      reground recipes copy bccd/sft --out mine.yaml
    """
    from reground.config import EXTENDS, merged
    from reground.errors import ConfigError
    from reground.io import dump_yaml, parse_yaml, write_text
    from reground.recipes import recipe

    source = recipe(name)
    place = out or Path(source.name)
    if place.exists():
        raise ConfigError(f"{place}: is there already; name another file with --out")
    text = source.read_text(encoding="utf-8")
    if EXTENDS in parse_yaml(text, str(source)):
        text = "".join(f"# {line}\n" for line in _comments(text)) + dump_yaml(merged(source))
    write_text(place, text)
    typer.echo(f"{place}: {name}")


def _lines(name: str) -> tuple[str, str]:
    """What a recipe is; and the verb that takes it, on what, how long."""
    from reground.config import merged
    from reground.recipes import recipe

    path = recipe(name)
    lines, content = _comments(path.read_text(encoding="utf-8")), merged(path)
    takes = [line.removesuffix(".") for line in lines if line.startswith(_TIME)]
    about = " ".join(line for line in lines if not line.startswith(_TIME))
    verb = "train" if "method" in content else "teach run" if "store" in content else ""
    steps = f"{content['steps']} steps of {content['method']}" if verb == "train" else ""
    specs = _data(content)
    more = f" and {len(specs) - 1} more" if len(specs) > 1 else ""
    parts = [steps, f"on {specs[0]}{more}" if specs else "", *(each.lower() for each in takes)]
    use = f"reground {verb} {name}" if verb else f"reground data convert ... --questions {name}"
    return (
        f"{name}: {about.partition('. ')[0].removesuffix('.')}",
        "; ".join(filter(None, [use, *parts])),
    )


def _comments(text: str) -> list[str]:
    """The lines of comment at the head of a file."""
    head = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").removeprefix(" "))
    return head


def _data(content: dict[str, Any]) -> list[str]:
    """The data sets it reads, each once."""
    found = content.get("data", [])
    if isinstance(found, str):
        return [found]
    mixes = [each["mix"] if isinstance(each, dict) else [each] for each in found]
    return list(dict.fromkeys(spec for mix in mixes for spec in mix))
