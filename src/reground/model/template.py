"""The chat template that knows images, wherever a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import ProcessorMixin

from reground.errors import ModelError
from reground.model.folder import Folder, first_line, reading

_TEXT = "the text"


def image_template(folder: Folder, tokenizer: Any, slot: str) -> str:
    """The first template that writes ``slot`` for an image.

    First the processor's own, which is what transformers' ``AutoProcessor`` takes, then the
    tokenizer's, then those of either that have other names than "default". Raises ``ModelError``
    where none knows images.
    """
    processor = reading(lambda: ProcessorMixin.get_processor_dict(folder.source)[0], folder.name)
    own = _named(processor.get("chat_template"), "its processor's template")
    more = _named(tokenizer.chat_template, "its tokenizer's template")
    found = sorted([*own, *more], key=lambda each: each[0].endswith("'"))
    problems = []
    for name, template in found:
        problem = _problem(tokenizer, template, slot)
        if problem is None:
            return template
        problems.append(f"{name}, which {problem}")
    raise ModelError(
        f"{folder.name}: found {' and '.join(problems) or 'no chat template'}; expected one that "
        f"writes {slot} for an image, in chat_template.json or chat_template.jinja; copy that file "
        "from the checkpoint that it was made from"
    )


def _named(templates: Any, whose: str) -> Iterator[tuple[str, str]]:
    """Templates with what they are called; one is called by its owner alone."""
    if isinstance(templates, str):
        yield whose, templates
    elif isinstance(templates, Mapping):
        for name, template in templates.items():
            yield whose if name == "default" else f"{whose} '{name}'", str(template)


def _problem(tokenizer: Any, template: str, slot: str) -> str | None:
    """Why a template does not do for an image and a text."""
    content = [{"type": "image"}, {"type": "text", "text": _TEXT}]
    try:
        rendered: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # a template is a program: any error may be in it
        return f"fails on one ({first_line(error)})"
    if rendered.count(slot) != 1 or rendered.count(_TEXT) != 1:
        return "knows no images"
    return None
