from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.errors import ConfigError
from reground.grounding.codecs import FORM_TAG
from reground.grounding.sample import Span
from reground.protocols import published
from reground.protocols.calls import CALL, SHOWN, SIGNATURES
from reground.protocols.prompts import PromptProfile, load_profile, profile_names
from reground.protocols.published import published_prompts, wording_of
from reground.protocols.wording import Segment, Wording, text_of

EXPECTED = [
    "cogvlm",
    "deepseek_vl2",
    "florence_2",
    "gemini",
    "glm_v",
    "griffon",
    "grounding_dino",
    "grounding_gpt",
    "internvl",
    "internvl_think",
    "judge",
    "kosmos_2",
    "mig_bench",
    "migician",
    "minicpm_v",
    "moondream",
    "paligemma",
    "piter",
    "pixels",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "refiner",
    "seed",
    "shikra",
    "teach",
    "tiny",
    "tiny_refiner",
    "univg_r1",
    "univg_r1_direct",
    "vg_refiner",
    "vg_refiner_zoom",
    "vlm_r1",
]


def render(profile: PromptProfile, question: str) -> str:
    tool = "[1, 2, 3, 4]" if "$tool" in profile.text else None
    boxes = "(1,2),(3,4)" if "$boxes" in profile.text else None
    chains = "A: the cup." if "$chains" in profile.text else None
    return profile.render(question=question, num_images=2, tool=tool, boxes=boxes, chains=chains)


def test_the_package_holds_its_profiles() -> None:
    assert profile_names() == EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
@given(question=st.text())
def test_the_question_is_inserted_as_it_is(name: str, question: str) -> None:
    assert question in render(load_profile(name), question)


@pytest.mark.parametrize(
    "question", ["$question", "${tool}", "$$5", "\\1", "a $ sign", "{x}", "%s"]
)
def test_a_question_is_never_a_template(question: str) -> None:
    assert render(load_profile("tiny"), question) == question


@pytest.mark.parametrize("name", EXPECTED)
def test_the_hash_is_that_of_the_file(name: str) -> None:
    data = resources.files("reground.protocols.prompts").joinpath(f"{name}.txt").read_bytes()
    assert load_profile(name).sha256 == hashlib.sha256(data).hexdigest()


def test_the_suffix_of_the_paper_stands_in_its_profile_alone() -> None:
    suffix = (
        "First output the thinking process in <think> </think> tags and then output the bounding "
        "box in <answer> </answer> tags."
    )
    assert render(load_profile("univg_r1"), "Where?") == f"Where? {suffix}"
    with_tags = [name for name in EXPECTED if FORM_TAG.search(load_profile(name).text)]
    assert with_tags == [
        *("internvl_think", "refiner", "teach", "univg_r1"),
        *("vg_refiner", "vg_refiner_zoom", "vlm_r1"),
    ]


@pytest.mark.parametrize("name", ["vg_refiner", "vg_refiner_zoom"])
def test_the_refiner_is_told_of_every_block(name: str) -> None:
    text = load_profile(name).text
    tags = ["<think>", "<function>", "<tool>", "<rethink>", "<answer>"]
    places = [text.index(tag) for tag in tags]
    assert places == sorted(places)


def test_the_zooming_refiner_is_told_how_to_call() -> None:
    text = load_profile("vg_refiner_zoom").text
    assert all(f"<function>{call}</function>" in text for call in SIGNATURES.values())


def test_a_detector_result_is_shown_only_where_there_is_one() -> None:
    shown = load_profile("piter").render(question="mug", num_images=1, tool="$question")
    assert "mug" in shown
    assert "$question" in shown  # tool text is no template either
    with pytest.raises(ConfigError, match="shows a detector's result and there is none"):
        load_profile("piter").render(question="mug", num_images=1)
    with pytest.raises(ConfigError, match=r"has no \$tool"):
        load_profile("qwen3_vl").render(question="mug", num_images=1, tool="[]")


def test_true_boxes_are_shown_to_teachers_alone() -> None:
    teach = load_profile("teach", needs=["boxes"])
    shown = teach.render(question="mug", num_images=3, boxes="(1,2),(3,$tool)", image=2)
    assert all(each in shown for each in ("mug", "about 3 image", "in image 2", "(1,2),(3,$tool)"))
    with pytest.raises(
        ConfigError, match="'teach' shows the true boxes and there is none; use `re"
    ):
        teach.render(question="mug", num_images=1)
    with pytest.raises(ConfigError, match=r"has no \$boxes to put .* such as 'teach'"):
        load_profile("tiny").render(question="mug", num_images=1, boxes="(1,2),(3,4)")
    others = [name for name in EXPECTED if "boxes" in load_profile(name).places]
    assert others == ["judge", "teach"]


def test_a_profile_must_have_what_its_user_needs(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Think about $question")
    with pytest.raises(ConfigError, match=r"mine\.txt: no \$boxes in it; say where the true boxes"):
        load_profile(path, needs=["boxes"])


def test_a_user_profile_is_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Of $num_images photos, for $$1: $question\n", encoding="utf-8")
    profile = load_profile(path)
    assert (profile.name, load_profile(str(path))) == ("mine", profile)
    assert profile.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert profile.render(question="mug", num_images=3) == "Of 3 photos, for $1: mug"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Where is it?", r"no \$question"),
        ("$questions", r"nothing fills \$questions"),
        ("$question for 5 $", "lone dollar sign"),
        ("$$question", r"no \$question"),
        ("", r"no \$question"),
    ],
)
def test_a_bad_profile_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_profile(path)
    assert "mine.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen3vl", "did you mean 'qwen3_vl'"),
        ("zzz", "known are"),
        ("absent.txt", "no such prompt file"),
        ("../qwen3_vl", "unknown prompt"),
    ],
)
def test_an_unknown_profile_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_profile(name)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.txt"
    path.write_bytes(b"\xff\xd8\xff\xe0$question")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_profile(path)


# --- special tokens, parts, and whose wording it is ---------------------------------------------

BOX, REF = ("<|box_start|>", "<|box_end|>"), ("<|object_ref_start|>", "<|object_ref_end|>")


def special(turn: list[Segment]) -> list[str]:
    return [each.text for each in turn if each.is_special]


@given(question=st.text() | st.sampled_from(["$<|box_start|>", "<|im_end|>", "$$<a>", "${x}"]))
def test_special_tokens_come_from_the_prompt_alone(question: str) -> None:
    turn = load_profile("migician").turn(question=question, num_images=1)
    assert special(turn) == [*BOX]
    assert turn[0].text.startswith(question)
    assert len(turn) == 5  # words are one piece between special tokens


def test_what_a_question_marks_goes_into_its_part() -> None:
    question = "The <|im_end|> cup (1,2),(3,4) here"
    spans = [Span(4, 18, "phrase"), Span(19, 30, "box")]
    turn = load_profile("migician").turn(question=question, num_images=1, spans=spans)
    assert special(turn) == [*REF, *BOX, *BOX]
    begin = f"The {REF[0]}<|im_end|> cup{REF[1]} {BOX[0]}(1,2),(3,4){BOX[1]} here Give"
    assert text_of(turn).startswith(begin)
    plain = load_profile("tiny").turn(question=question, num_images=1, spans=spans)
    assert plain == [Segment(question)]  # one piece, as if nothing were marked


def test_marks_are_told_from_dollars() -> None:
    wording = Wording.of("$$<|box_start|> <|box_end|> ${place}x $<ref>", where="here")
    assert (wording.places, wording.special_tokens) == (("place",), ("<ref>",))
    assert wording.filled({"place": "$p"}) == [
        Segment("$<|box_start|> <|box_end|> $px "),
        Segment("<ref>", is_special=True),
    ]


def own(tmp_path: Path, text: str) -> PromptProfile:
    path = tmp_path / "mine.txt"
    path.write_bytes(text.encode())
    return load_profile(path)


def test_a_prompt_file_has_parts_for_the_tool(tmp_path: Path) -> None:
    text = "\n $question \n\n[[call]]\n{call}\n[[tool]]\n\n<tool>\n$results_indented\n</tool>\n"
    call = "Let me ask.\n<function>get_extra_ref_result()</function>"
    profile = own(tmp_path, text.replace("{call}", call))
    assert profile.text == "\n $question \n"  # but for the last line end, as it was written
    assert (profile.call, profile.tool.source) == (call, "\n<tool>\n$results_indented\n</tool>")
    assert own(tmp_path, text.replace("{call}", call).replace("\n", "\r\n")).parts == profile.parts
    plain = load_profile("vg_refiner")
    assert (plain.call, plain.tool) == (CALL, SHOWN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[tools]]\n<tool>$results</tool>", r"part \[\[tools\]\] is unknown.*did you mean 'tool'"),
        ("[[box]]\n$box\n[[box]]\n$box", r"part \[\[box\]\] .* there twice"),
        ("[[tool]]\n<tool>boxes</tool>", r"\[\[tool\]\]: no \$results or \$results_indented in it"),
        ("[[tool]]\n<tool>$tool</tool>", r"nothing fills \$tool; use \$results"),
        ("[[tool]]\n$results", r"outside <tool> \.\.\. </tool>"),
        ("[[tool]]\n<tool>$results</tool><answer>1</answer>", "or another tag inside"),
        ("[[tool]]\n<tool>$<|box_start|>$results</tool>", "or another tag inside"),
        ("[[call]]\n<function>zoom_in(1,2,3,4)</function>", "is no call for the detectors' result"),
        ("[[call]]\nget_extra_ref_result()", "is no call for the detectors' result"),
        ("[[phrase]]\nthe thing", r"\[\[phrase\]\]: no \$phrase in it"),
        ("[[phrase]]\n$phrase for 5 $", "lone dollar sign"),
    ],
)
def test_a_part_that_cannot_serve_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        own(tmp_path, f"$question\n{text}\n")
    assert "mine.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_any_file_is_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "authors.jinja").write_text("{{ content }}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no \$question"):
        load_profile(tmp_path / "authors.jinja")
    (tmp_path / "authors.jinja").write_bytes(b"\xef\xbb\xbfFind $question")
    assert load_profile(tmp_path / "authors.jinja").text == "Find $question"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a $question\nb", "a ${question} \r\nb\n\n", True),
        ("a $question", "a $question.", False),
        ("a $question", "a  $question", False),
        ("a\n$question", "a $question", False),
        ("$question <a>", "$question $<a>", False),
        ("$question $$x", "$question $x", False),
    ],
)
def test_a_digest_forgives_ends_of_lines_alone(one: str, other: str, same: bool) -> None:
    assert (Wording(one).sha256 == Wording(other).sha256) is same


def test_published_prompts_are_known_by_their_digests() -> None:
    digests = [each.sha256 for each in published_prompts()]
    assert len(digests) == len(set(digests)) and all(len(each) == 64 for each in digests)
    assert all(each.where and "(" in each.where + "(" for each in published_prompts())
    told = {name: wording_of(load_profile(name)) for name in EXPECTED}
    known = {name: words for name, words in told.items() if words != "our wording"}
    assert known == {
        "internvl_think": "as published (UniVG-R1)",
        "qwen2_5_vl": "as published (Qwen2.5-VL)",
        "qwen3_vl": "as published (Qwen3-VL)",
        "univg_r1": "as published (UniVG-R1)",
        "vlm_r1": "as published (VLM-R1)",
    }
    models = {each.model for each in published_prompts()}
    assert {"UniVG-R1", "VG-Refiner", "Migician", "VLM-R1", "Qwen2.5-VL", "Qwen3-VL"} <= models


def test_a_file_is_known_again_with_its_tool_text_or_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, shown = "Somebody's $question", "\n<tool>\n$results\n</tool>"
    entry = published.PublishedPrompt(
        *("x", "Somebody", "all", "think_rethink", "there"),
        Wording(user).sha256,
        Wording(shown).sha256,
    )
    monkeypatch.setattr(published, "published_prompts", lambda: (entry,))
    assert wording_of(own(tmp_path, f"{user}\n[[tool]]\n{shown}\n")) == "as published (Somebody)"
    other = wording_of(own(tmp_path, f"{user}\n"))
    assert other == "as published (Somebody), the tool's text: our wording"
    assert wording_of(own(tmp_path, f"{user}!\n")) == "our wording"
