"""What each model family writes: the frame of its boxes, how it spells them, what stands around.

:meth:`Family.render` writes the gold answer; :func:`reground.grounding.answers.parse` reads one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from reground.errors import ConfigError, DataError, did_you_mean
from reground.grounding.boxes import THOUSAND, UNIT, Box, Frame, FrameKind
from reground.grounding.grammars import Grammar, spell

CALL_NAME = "get_extra_ref_result"
CALL_BEGIN, CALL_END = "<function>", "</function>"
CALL = f"{CALL_BEGIN}\n{CALL_NAME}()\n{CALL_END}"
"""How a model asks for the detector's result (VG-Refiner): between line breaks inside the tags."""

FORM_TAG = re.compile(r"<(/?)(think|rethink|answer|function|tool)>")


class Form(StrEnum):
    """What stands around the boxes."""

    DIRECT = "direct"  # nothing
    THINK = "think"  # <think>..</think><answer>..</answer>
    THINK_RETHINK = "think_rethink"  # think, perhaps function and tool, rethink, answer


@dataclass(frozen=True, slots=True)
class EncodedSize:
    """The recorded size of one encoded image: of its file, and of what the model saw, in pixels."""

    width: int
    height: int
    input_width: int
    input_height: int

    @property
    def pixels(self) -> Frame:
        """The frame of original pixels."""
        return Frame.pixels(self.width, self.height)

    def frame(self, kind: FrameKind) -> Frame:
        """The frame of ``kind`` of this image."""
        match kind:
            case FrameKind.PIXELS:
                return self.pixels
            case FrameKind.INPUT:
                return Frame.input(self.input_width, self.input_height)
            case FrameKind.THOUSAND:
                return THOUSAND
            case FrameKind.UNIT:
                return UNIT
            case FrameKind.SQUARE:
                return Frame.square(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Family:
    """One way of answering: frame, grammar and form, and the prompt profile that asks for it.

    ``decimals`` are those of the numbers in its answers.
    """

    name: str
    frame: FrameKind
    grammar: Grammar
    form: Form
    prompt: str
    decimals: int = 0

    def render(
        self,
        boxes: Sequence[Box],
        *,
        size: EncodedSize,
        think: str | None = None,
        rethink: str | None = None,
        tool: str | None = None,
    ) -> str:
        """The gold answer for ``boxes`` (original pixels of the image of ``size``).

        Numbers are rounded to units of the family's last decimal, so that an edge moves by at most
        half a unit; by a whole one at an edge of the image that no number hits (CogVLM has no 1000,
        the edge of a padded image can lie between two numbers). A box with an area keeps one: where
        rounding would take it, the box is widened to one unit. An empty list is ``[]`` in JSON and
        ``none`` elsewhere. Forms without a think or rethink block leave those texts out. ``tool``
        is what a detector says (:func:`reground.grounding.tool_turn.tool_text`); the call that it
        answers stands before it. Raises ``DataError`` for a box without area inside the image, and
        for a chain that holds the tags of the form; ``ValueError`` for a box of another frame.

        >>> size = EncodedSize(640, 480, 644, 476)
        >>> box = Box(64, 120, 320, 360, size.pixels)
        >>> FAMILIES["univg_r1"].render([box], size=size, think="The left one.")
        '<think>The left one.</think><answer>(100,250),(500,750)</answer>'
        """
        units = [self.units(box, size=size) for box in boxes]
        answer = spell(units, self.grammar, decimals=self.decimals)
        match self.form:
            case Form.DIRECT:
                return answer
            case Form.THINK:
                return _block("think", think) + f"<answer>{answer}</answer>"
            case Form.THINK_RETHINK:
                call = "\n" if tool is None else f"\n{CALL}{tool}"
                thoughts = _block("think", think) + call + _block("rethink", rethink)
                return thoughts + f"\n<answer>{answer}</answer>"

    def units(self, box: Box, *, size: EncodedSize) -> list[int]:
        """The numbers of a box, counted in units of the last decimal; see :meth:`render`."""
        if box.frame != size.pixels:
            raise ValueError(f"a gold box must be in {size.pixels}, found {box.frame}")
        inside = box.clipped()
        if inside.is_degenerate:
            raise DataError(
                f"a true box {box.xyxy} has no area inside its {size.width} x {size.height} image; "
                "mend the row, or let `reground data validate` set it aside"
            )
        frame, scale = size.frame(self.frame), 10**self.decimals
        x1, y1, x2, y2 = (scale * edge for edge in inside.to(frame).xyxy)
        right, lower = scale * (frame.left + frame.width), scale * (frame.upper + frame.height)
        if self.grammar is Grammar.THREE_DIGITS:
            right, lower = min(right, 999), min(lower, 999)
        x1, x2 = _round_edges(x1, x2, scale * frame.left, right)
        y1, y2 = _round_edges(y1, y2, scale * frame.upper, lower)
        return [x1, y1, x2, y2]


_INPUT, _THOUSAND, _PIXELS = FrameKind.INPUT, FrameKind.THOUSAND, FrameKind.PIXELS
_UNIT, _SQUARE = FrameKind.UNIT, FrameKind.SQUARE
_DIRECT = Form.DIRECT

FAMILIES = {
    family.name: family
    for family in (
        Family("qwen2_vl", _THOUSAND, Grammar.BOX_TOKENS, _DIRECT, "qwen2_vl"),
        Family("qwen2_5_vl", _INPUT, Grammar.JSON, _DIRECT, "qwen2_5_vl"),
        Family("qwen3_vl", _THOUSAND, Grammar.JSON, _DIRECT, "qwen3_vl"),
        Family("univg_r1", _THOUSAND, Grammar.PAIRS, Form.THINK, "univg_r1"),
        Family("univg_r1_direct", _THOUSAND, Grammar.PAIRS, _DIRECT, "univg_r1_direct"),
        Family("vlm_r1", _INPUT, Grammar.JSON, Form.THINK, "vlm_r1"),
        Family("vg_refiner", _INPUT, Grammar.JSON, Form.THINK_RETHINK, "vg_refiner"),
        # Baselines of the two papers, read here and run elsewhere; only Migician loads here too.
        Family("migician", _THOUSAND, Grammar.BOX_TOKENS, _DIRECT, "migician"),
        Family("internvl", _THOUSAND, Grammar.BRACKET_LIST, _DIRECT, "internvl"),  # 2, 2.5, 3
        Family("minicpm_v", _THOUSAND, Grammar.BOX_NUMBERS, _DIRECT, "minicpm_v"),  # 2.6
        Family("cogvlm", _THOUSAND, Grammar.THREE_DIGITS, _DIRECT, "cogvlm"),
        # In the way that MIG-Bench asks them.
        Family("llava_onevision", _UNIT, Grammar.BRACKETS, _DIRECT, "mig_bench", decimals=3),
        Family("mantis", _UNIT, Grammar.BRACKETS, _DIRECT, "mig_bench", decimals=3),
        Family("mplug_owl3", _UNIT, Grammar.BRACKETS, _DIRECT, "mig_bench", decimals=3),
        # Their images are padded to a square first.
        Family("shikra", _SQUARE, Grammar.SEMICOLONS, _DIRECT, "shikra", decimals=3),
        Family("grounding_gpt", _SQUARE, Grammar.BRACKETS, _DIRECT, "grounding_gpt", decimals=3),
        # A detector's boxes, written down as an answer.
        Family("grounding_dino", _PIXELS, Grammar.JSON, _DIRECT, "grounding_dino"),
    )
}


PITER, REFINER = "piter", "refiner"


def get_family(name: str) -> Family:
    """The family called ``name``; raises ``ConfigError`` that suggests the nearest name.

    ``NAME/piter`` is the family NAME under the PiTER protocol of VG-Refiner: one turn for every
    model, answered with JSON boxes in the frame that the family knows. ``NAME/refiner`` is the
    family under its think-rethink protocol, in the frame that it knows; boxes are spelt as the
    family does where that takes no tags, and in JSON otherwise.
    """
    base, _, protocol = name.partition("/")
    if protocol == PITER:
        family = get_family(base)
        return replace(family, name=name, grammar=Grammar.JSON, form=Form.DIRECT, prompt=PITER)
    if protocol == REFINER:
        return _refiner(get_family(base), name)
    if name in FAMILIES:
        return FAMILIES[name]
    raise ConfigError(f"unknown family {name!r}; {did_you_mean(name, FAMILIES)}")


def _refiner(family: Family, name: str) -> Family:
    grammar = family.grammar if family.grammar in _PLAIN else Grammar.JSON
    prompt = "vg_refiner" if grammar is Grammar.JSON else "refiner"
    return replace(family, name=name, grammar=grammar, form=Form.THINK_RETHINK, prompt=prompt)


_PLAIN = (Grammar.JSON, Grammar.PAIRS, Grammar.BRACKETS)  # could not be taken for tags

Protocol = Literal["direct", "piter", "refiner"]

_DIRECT_OF = {"vg_refiner": "qwen2_5_vl"}  # families of one protocol alone


def under(name: str, protocol: Protocol) -> str:
    """The name of a family under another protocol; raises ``ConfigError`` for an unknown family.

    >>> under("qwen3_vl/refiner", "piter"), under("vg_refiner", "direct")
    ('qwen3_vl/piter', 'qwen2_5_vl')
    """
    base = get_family(name).name.partition("/")[0]
    if protocol == REFINER and base in _DIRECT_OF:
        return base
    base = _DIRECT_OF.get(base, base)
    return base if protocol == "direct" else f"{base}/{protocol}"


def _round_edges(low: float, high: float, first: float, last: float) -> tuple[int, int]:
    """``low`` and ``high`` as different integers from ``first`` to ``last``."""
    least, most = math.ceil(first - 1e-6), math.floor(last + 1e-6)
    lower, upper = max(round(low), least), min(round(high), most)
    if lower < upper:
        return lower, upper
    lower = max(min(math.floor(low), most - 1), least)
    return lower, lower + 1


def _block(tag: str, text: str | None) -> str:
    if found := FORM_TAG.search(text or ""):
        raise DataError(
            f"a {tag} text holds the tag {found.group()!r}, which would end or open a block of the "
            "answer; take the tags out of the reasoning chain"
        )
    return f"<{tag}>{text or ''}</{tag}>"
