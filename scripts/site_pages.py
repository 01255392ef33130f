"""What `make docs` makes of the code: the pages of the reference, and llms.txt; hooks of MkDocs.

The form of llms.txt is that of https://llmstxt.org: a title, a quote, and lists of links. The site
has no address of its own, so links are relative; behind them is each page's own Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import griffe
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page
from pydantic import TypeAdapter

from reground.cli import app
from reground.teacher.settings import TeachConfig
from reground.training.settings import TrainConfig

Schema = Mapping[str, Any]

_API = {
    "Ask a model": ("reground.api",),
    "Boxes and samples": ("reground.grounding.boxes", "reground.grounding.sample"),
    "Answers": ("reground.grounding.answers",),
    "Settings": ("reground.config",),
    "Errors": ("reground.errors",),
    "Your own detector": ("reground.rollout.tools.tool",),
    "Your own algorithm": ("reground.training.algorithms.parts",),
    "Your own model type": ("reground.model.adapter",),
}
_TOP = 10**12  # a bound above it is there against overflow, and says nothing to a reader


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for name, text in (("api", api()), ("cli", command_line()), ("config", settings())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> Navigation:
    """Keep the order of the pages for llms.txt."""
    config.extra["llms"] = nav
    return nav


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write llms.txt, and the Markdown that it links."""
    site, nav = Path(config.site_dir), config.extra["llms"]
    for page in nav.pages:
        target = site / page.file.src_uri
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page.markdown, encoding="utf-8")
    text = llms(nav, name=config.site_name, about=config.site_description or "")
    (site / "llms.txt").write_text(text, encoding="utf-8")


def llms(nav: Navigation, *, name: str, about: str) -> str:
    """The site's llms.txt: every page once, below the title of its section."""
    lines = [f"# {name}", "", f"> {about}", "", "## Start", ""]
    for item in nav.items:
        if isinstance(item, Section):
            lines += ["", f"## {item.title}", ""]
        pages = [item] if isinstance(item, Page) else item.children
        lines += [f"- [{p.title}]({p.file.src_uri}): {_first_sentence(p.markdown)}" for p in pages]
    return "\n".join(lines) + "\n"


def api() -> str:
    """The page of Python objects; mkdocstrings fills it from the docstrings."""
    intro = "# Python\n\nWhat a program may import, from its own docstrings.\n"
    options = "    options: {show_root_heading: false, show_root_toc_entry: false}\n"
    parts = (
        f"\n## {title}\n" + "".join(f"\n::: {module}\n{options}" for module in modules)
        for title, modules in _API.items()
    )
    return intro + "".join(parts)


def command_line() -> str:
    """The page of verbs and options, from Typer's own objects."""
    intro = "# Command line\n\nEvery verb, as `reground VERB --help` prints it.\n"
    return intro + "\n".join(_verb(typer.main.get_command(app), "reground"))


def settings() -> str:
    """The page of settings, from the schemas that configs are checked against."""
    intro = (
        "# Settings\n\nEvery key of the YAML files, with what it takes and its default. On the "
        "command line `key=value` sets one, with dots between levels: `optim.lr=1e-4`; "
        "`--dry-run` prints all of them.\n"
    )
    named = (("reground train", TrainConfig), ("reground teach", TeachConfig))
    return intro + "".join("\n".join(_schema(name, schema)) for name, schema in named)


def _verb(command: Any, name: str) -> Iterator[str]:
    if children := getattr(command, "commands", None):
        if name != "reground":
            yield f"\n## {name}\n\n{_prose(command.help)}"
        for child, own in children.items():
            yield from _verb(own, f"{name} {child}")
        return
    context = typer.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    level = "#" * (len(name.split()))
    yield f"\n{level} {name}\n\n```\n{name} {usage}\n```\n\n{_prose(command.help)}\n"
    rows = [row for each in command.params if (row := _option(each, context))]
    yield "\n".join(["| argument or option | what it does |", "| --- | --- |", *rows, ""])


def _option(parameter: Any, context: Any) -> str:
    """A row of a table, empty for an option that is hidden."""
    if parameter.param_type_name == "argument":
        metavar = parameter.metavar or parameter.name.upper()
        return f"| `{metavar}` | {_cell(parameter.help or '')} |"
    record = parameter.get_help_record(context)
    if record is None:
        return ""
    flags = record[0].replace("|", "\\|")
    return f"| `{flags}` | {_cell(record[1])} |"


def _prose(text: str | None) -> str:
    r"""A help text as Markdown: what follows a ``\b`` keeps its lines."""
    parts = re.split(r"\n?\x08\n", (text or "").strip())
    kept = (f"```\n{part.rstrip()}\n```" for part in parts[1:])
    return "\n\n".join([parts[0].strip(), *kept])


def _schema(name: str, section: type) -> Iterator[str]:
    whole = TypeAdapter(section).json_schema()
    yield f"\n## {name}\n\n{_described(whole)}\n"
    yield _keys(whole)
    for path, own in dict(_sections(whole, whole["$defs"], "")).items():
        yield f"\n### {path}\n\n{_described(own)}\n"
        yield _keys(own)


def _sections(own: Schema, parts: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    """Sections below one, each with its place in a config, in the order of the keys."""
    for key, value in own["properties"].items():
        for name in dict.fromkeys(re.findall(r"#/\$defs/(\w+)", json.dumps(value))):
            section = parts[name]
            kind = section["properties"].get("type", {}).get("const")
            several = "- " if value.get("type") == "array" else ""
            path = f"{prefix}{key}: {several}type: {kind}" if kind else f"{prefix}{key}"
            yield path, section
            yield from _sections(section, parts, f"{prefix}{key}.")


def _keys(own: Schema) -> str:
    rows = ["| key | takes | default |", "| --- | --- | --- |"]
    for key, value in own["properties"].items():
        default = "must be given" if key in own.get("required", ()) else _default(value)
        rows.append(f"| `{key}` | {_cell(_taken(value))} | {_cell(default)} |")
    return "\n".join(rows) + "\n"


def _default(value: Schema) -> str:
    """A default as YAML has it; of a section with a type its type alone, else nothing."""
    default = value.get("default")
    if default is None:
        return "none"
    if "$ref" not in json.dumps(value):
        return f"`{json.dumps(default)}`"
    kinds = default if isinstance(default, list) else [default]
    return ", ".join(f"`type: {each['type']}`" for each in kinds if "type" in each)


def _taken(value: Schema) -> str:
    """What a key takes, in words: its type, range and choices."""
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "$ref" in value:
        return "a section, below"
    if members := value.get("anyOf") or value.get("oneOf"):
        kinds = (_taken(each) for each in members if each.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    if value.get("type") == "array":
        taken = _taken(value["items"]) if "items" in value else ""
        return f"list of {taken}".replace("of a section", "of sections") if taken else "two numbers"
    words = {"string": "text", "boolean": "`true`, `false`", "object": "a mapping"}
    kind = value.get("type", "any")
    bounds = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    said = [f"{word} {value[key]:,}" for key, word in bounds if value.get(key, _TOP) < _TOP]
    return " ".join([str(words.get(kind, kind)), ", ".join(said)]).strip()


def _described(own: Schema) -> str:
    return fenced(own.get("description", "")).replace("``", "`")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def _first_sentence(markdown: str) -> str:
    """Of the first paragraph that is text, without its links."""
    blocks = (
        block.strip() for block in re.sub(r"```.*?```", "", markdown, flags=re.S).split("\n\n")
    )
    first = next(block for block in blocks if re.match(r"[A-Z`\[]", block))
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", first.replace("\n", " "))
    return re.split(r"(?<=[.:]) ", plain, maxsplit=1)[0].rstrip(":")


def fenced(text: str) -> str:
    """A docstring as Markdown: doctests in blocks of code, roles of Sphinx as plain names."""
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text)
    return re.sub(
        r"(?:^[ ]*>>> .*\n?(?:^(?!\s*$).*\n?)*\n*)+",
        lambda found: f"```pycon\n{found[0].strip()}\n```\n",
        text,
        flags=re.MULTILINE,
    )


class Docstrings(griffe.Extension):
    """Makes Markdown of docstrings for mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of every module, class and function."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
