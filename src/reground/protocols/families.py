"""What each model family writes: its codec, the protocols that it speaks, and a prompt for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from reground.errors import ConfigError, did_you_mean
from reground.grounding.boxes import FrameKind
from reground.grounding.codecs import Codec, Form
from reground.grounding.grammars import Grammar
from reground.grounding.names import ProtocolName

FORMS: Mapping[ProtocolName, Form] = {
    "direct": Form.DIRECT,
    "think": Form.THINK,
    "think_rethink": Form.THINK_RETHINK,
    "piter": Form.DIRECT,
}
_UNTAGGED = (Grammar.JSON, Grammar.PAIRS, Grammar.BRACKETS)  # could not be taken for tags


@dataclass(frozen=True, slots=True)
class Family:
    """One way of writing boxes, and the prompt profiles that ask for them, by protocol.

    ``protocol`` is the one that it was trained for. Every family also speaks PiTER, VG-Refiner's
    fair protocol (one turn for every model, answered in JSON), and think-rethink.
    """

    name: str
    codec: Codec
    own_prompts: Mapping[ProtocolName, str]
    protocol: ProtocolName = "direct"

    @property
    def prompts(self) -> dict[ProtocolName, str]:
        """A profile for each protocol that the family speaks."""
        json = self.codec_under("think_rethink").grammar is Grammar.JSON
        shared: dict[ProtocolName, str] = {
            "think_rethink": "vg_refiner" if json else "refiner",
            "piter": "piter",
        }
        return {**self.own_prompts, **shared}

    def codec_under(self, protocol: ProtocolName) -> Codec:
        """How boxes are written under ``protocol``: always in the frame that the family knows.

        PiTER's are JSON; think-rethink's are the family's where that takes no tags, else JSON.
        """
        tagged = self.codec.grammar not in _UNTAGGED
        if protocol == "piter" or (protocol == "think_rethink" and tagged):
            return replace(self.codec, grammar=Grammar.JSON)
        return self.codec


_INPUT, _THOUSAND, _PIXELS = FrameKind.INPUT, FrameKind.THOUSAND, FrameKind.PIXELS
_UNIT = Codec(FrameKind.UNIT, Grammar.BRACKETS, decimals=3)
_PAIRS, _INPUT_JSON = Codec(_THOUSAND, Grammar.PAIRS), Codec(_INPUT, Grammar.JSON)
_BOX_TOKENS = Codec(_THOUSAND, Grammar.BOX_TOKENS)
_QWEN_2_5: Mapping[ProtocolName, str] = {"direct": "qwen2_5_vl", "think": "vlm_r1"}


def _only(prompt: str) -> Mapping[ProtocolName, str]:
    return {"direct": prompt}


FAMILIES = {
    family.name: family
    for family in (
        Family("qwen2_vl", _BOX_TOKENS, {"direct": "qwen2_vl", "think": "univg_r1"}),
        Family("qwen2_5_vl", _INPUT_JSON, _QWEN_2_5),
        Family(
            "qwen3_vl", Codec(_THOUSAND, Grammar.JSON), {"direct": "qwen3_vl", "think": "vlm_r1"}
        ),
        Family("univg_r1", _PAIRS, {"direct": "univg_r1_direct", "think": "univg_r1"}, "think"),
        Family("vlm_r1", _INPUT_JSON, _QWEN_2_5, "think"),
        Family("vg_refiner", _INPUT_JSON, _QWEN_2_5, "think_rethink"),
        Family(  # InternVL 2, 2.5, 3, 3.5
            "internvl",
            Codec(_THOUSAND, Grammar.BRACKET_LIST),
            {"direct": "internvl", "think": "internvl_think"},
        ),
        # Baselines of the two papers, read here and run elsewhere; only Migician loads here too.
        Family("migician", _BOX_TOKENS, _only("migician")),
        Family("minicpm_v", Codec(_THOUSAND, Grammar.BOX_NUMBERS), _only("minicpm_v")),  # 2.6
        Family("cogvlm", Codec(_THOUSAND, Grammar.THREE_DIGITS), _only("cogvlm")),
        # In the way that MIG-Bench asks them.
        Family("llava_onevision", _UNIT, _only("mig_bench")),
        Family("mantis", _UNIT, _only("mig_bench")),
        Family("mplug_owl3", _UNIT, _only("mig_bench")),
        # Their images are padded to a square first.
        Family("shikra", Codec(FrameKind.SQUARE, Grammar.SEMICOLONS, 3), _only("shikra")),
        Family(
            "grounding_gpt", Codec(FrameKind.SQUARE, Grammar.BRACKETS, 3), _only("grounding_gpt")
        ),
        # Read here and asked behind servers, or their stored answers.
        Family("gemini", Codec(_THOUSAND, Grammar.JSON_ROWS), _only("gemini")),
        Family("paligemma", Codec(FrameKind.OF_1024, Grammar.LOC_ROWS), _only("paligemma")),
        Family("florence_2", Codec(FrameKind.BINS, Grammar.LOC_BINS), _only("florence_2")),
        Family("deepseek_vl2", Codec(FrameKind.OF_999, Grammar.DET_LIST), _only("deepseek_vl2")),
        Family("moondream", Codec(FrameKind.UNIT, Grammar.JSON_SIDES, 3), _only("moondream")),
        Family("kosmos_2", Codec(FrameKind.PATCHES, Grammar.PATCH_PAIRS), _only("kosmos_2")),
        Family("glm_v", Codec(_THOUSAND, Grammar.BOX_BLOCK), _only("glm_v")),  # 4.1V to 4.6V
        Family("seed", Codec(_THOUSAND, Grammar.BBOX_NUMBERS), _only("seed")),
        Family("griffon", _UNIT, _only("griffon")),
        # Asked for JSON in pixels of the picture, which is sent as it is.
        Family("gpt", Codec(_PIXELS, Grammar.JSON), _only("pixels")),
        Family("claude", Codec(_PIXELS, Grammar.JSON), _only("pixels")),
        # A detector's boxes, written down as an answer.
        Family("grounding_dino", Codec(_PIXELS, Grammar.JSON), _only("grounding_dino")),
    )
}


def get_family(name: str) -> Family:
    """The family called ``name``; raises ``ConfigError`` that suggests the nearest name."""
    if name in FAMILIES:
        return FAMILIES[name]
    raise ConfigError(
        f"unknown family {name!r}; {did_you_mean(name, FAMILIES)}", help="unknown-family"
    )
