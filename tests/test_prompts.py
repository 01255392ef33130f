from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.errors import ConfigError
from reground.grounding.codecs import FORM_TAG
from reground.protocols.calls import SIGNATURES
from reground.protocols.prompts import PromptProfile, load_profile, profile_names

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
    assert with_tags == ["refiner", "teach", "univg_r1", "vg_refiner", "vg_refiner_zoom", "vlm_r1"]


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
