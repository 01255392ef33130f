"""Label Studio's labelling interface: where its image is, its labels, and its names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from reground.errors import DataError

LONGEST = 200_000  # letters of an interface
_DEEPEST = 64  # elements within elements
MOST_LABELS = 100
_NO_BOXES = (
    "the labelling interface has no boxes to draw; expected <RectangleLabels> of at most "
    f"{MOST_LABELS} <Label>s, for an <Image value='$FIELD'>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label of boxes: its ``phrase``, the ``name`` that regions bear, and its control."""

    phrase: str
    name: str
    from_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What of a labelling interface concerns boxes in one image.

    ``image`` is the field of a task with the image, ``texts`` those that may hold a phrase.
    """

    to_name: str
    image: str
    labels: tuple[Label, ...]
    texts: tuple[str, ...] = ()

    def asked(self, phrase: str | None, data: Mapping[str, Any]) -> dict[str, Label]:
        """What to ask, each with its label: the phrase, else the task's, else every label."""
        texts = [str(data[field]) for field in self.texts if isinstance(data.get(field), str)]
        if phrase := next((text for text in (phrase, *texts) if text and text.strip()), None):
            return {phrase: self.label_of(phrase)}
        return {label.phrase: label for label in self.labels}

    def label_of(self, phrase: str) -> Label:
        """The label for boxes of a phrase: the longest that it names, else the first."""
        words = phrase.casefold()
        named = [
            label
            for label in self.labels
            if re.search(rf"(?<!\w){re.escape(label.phrase.casefold())}(?!\w)", words)
        ]
        return max(named, key=lambda label: len(label.phrase), default=self.labels[0])


@dataclass(frozen=True, slots=True)
class _Element:
    tag: str
    names: dict[str, str]
    parent: _Element | None = None

    def field(self) -> str | None:
        """The field of a task that it shows."""
        value = self.names.get("value", self.names.get("valuelist", ""))
        return value[1:] if value.startswith("$") and len(value) > 1 else None


def interface_of(xml: str) -> Interface:
    """Read a labelling interface; raises ``DataError`` where it cannot be one for boxes."""
    elements = _elements(xml)
    images = {
        each.names.get("name", ""): field
        for each in elements
        if each.tag == "image" and (field := each.field())
    }
    labels = [label for label in elements if label.tag == "label" and label.names.get("value")]
    of_boxes = [
        (label, control)
        for label in labels
        if (control := label.parent) is not None
        and control.tag == "rectanglelabels"
        and control.names.get("toname") in images
        and control.names.get("name")
    ]
    if not 0 < len(of_boxes) <= MOST_LABELS:
        raise DataError(_NO_BOXES)
    to_name = of_boxes[0][1].names["toname"]
    texts = sorted((each.tag, field) for each in elements if (field := _text_field(each)))
    return Interface(
        to_name=to_name,
        image=images[to_name],
        labels=tuple(
            Label(
                phrase=label.names["value"],
                name=label.names.get("alias") or label.names["value"],
                from_name=control.names["name"],
            )
            for label, control in of_boxes
            if control.names["toname"] == to_name
        ),
        texts=tuple(field for _, field in reversed(texts)),  # of a TextArea before those of a Text
    )


def _text_field(element: _Element) -> str | None:
    return element.field() if element.tag in ("text", "textarea") else None


def _elements(xml: str) -> list[_Element]:
    """The elements, tags and names of attributes in lower case, as Label Studio reads them.

    No document type is read, hence no entity of its own. Raises ``DataError``.
    """
    found: list[_Element] = []
    path: list[_Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(path) >= _DEEPEST:
            raise DataError(f"the labelling interface is more than {_DEEPEST} elements deep")
        names = {name.lower(): value for name, value in attributes.items()}
        path.append(_Element(tag.lower(), names, path[-1] if path else None))
        found.append(path[-1])

    def refuse(*_: object) -> None:
        raise DataError("the labelling interface has a document type; expected none")

    if len(xml) > LONGEST:
        raise DataError(f"the labelling interface is longer than {LONGEST:,} letters")
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: path.pop()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"the labelling interface is no XML ({error})") from None
    return found
