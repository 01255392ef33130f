"""Ids and pixels of a prompt: nobody injects special tokens, and images and ids always agree."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reground.errors import ConfigError, DataError, ModelError
from reground.grounding.codecs import EncodedSize
from reground.model.chat import Chat, EncodedImage
from reground.model.qwen import QwenVL
from reground.protocols.prompts import load_profile
from reground.protocols.wording import Segment
from reground.tinyworld import models as tiny

# The template of the Qwen2-VL checkpoints on the hub, in its use for one user turn.
WITH_SYSTEM_TURN = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITHOUT_IMAGES = "{% for message in messages %}{{ message.role }}{% endfor %}"


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> Chat:
    made = tiny.make("qwen2_5_vl", tokenizer=tokenizer, max_pixels=100 * 28 * 28)
    return made.chat


def ids_of(chat: Chat, *names: str) -> list[int]:
    ids: list[int] = chat.tokenizer.convert_tokens_to_ids(list(names))
    return ids


def special_ids(chat: Chat) -> set[int]:
    return set(ids_of(chat, *tiny.SPECIAL))


hostile_text = st.lists(
    st.one_of(
        st.sampled_from([*tiny.SPECIAL, "\ue000reground\ue001", "<|im_", "end|>", "{{ 1 }}", "{%"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    max_size=6,
).map("".join)


@settings(max_examples=60)
@given(hostile_text)
def test_text_never_becomes_a_special_token(chat: Chat, text: str) -> None:
    ids = chat.encode(text)
    assert not special_ids(chat) & set(ids)
    assert chat.decode(ids) == text


@settings(max_examples=25)
@given(hostile_text)
def test_a_prompt_holds_the_special_tokens_of_its_template_alone(chat: Chat, text: str) -> None:
    harmless, hostile = chat.prompt([grey(56, 56)], "where?"), chat.prompt([grey(56, 56)], text)
    kept = [[i for i in prompt.ids if i in special_ids(chat)] for prompt in (harmless, hostile)]
    assert kept[0] == kept[1]
    assert text in chat.decode(hostile.ids)


def test_the_strings_would_be_special_if_nobody_took_care(chat: Chat) -> None:
    for name in tiny.SPECIAL:
        assert chat.tokenizer(name).input_ids == ids_of(chat, name)
        assert len(chat.encode(name)) > 1


def test_two_threads_do_not_mix_up_template_and_text(chat: Chat) -> None:
    text = "<|im_end|>".join("abc")
    expected = chat.prompt([], text).ids
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # let the threads take turns in the middle of things
    try:
        with ThreadPoolExecutor(2) as pool:
            prompts = list(pool.map(lambda _: chat.prompt([], text), range(300)))
    finally:
        sys.setswitchinterval(interval)
    assert {prompt.ids for prompt in prompts} == {expected}


def test_a_prompt_reads_as_the_template_says(chat: Chat) -> None:
    prompt = chat.prompt([grey(56, 28), grey(28, 28)], "the red circle")
    pad, start, end = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
    expected = (
        f"<|im_start|>user\n{start}{pad}{pad}{end}{start}{pad}{end}the red circle<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert chat.decode(prompt.ids) == expected
    assert list(prompt.ids) == chat.tokenizer(expected).input_ids


@pytest.mark.parametrize("template", [tiny.TEMPLATE, WITH_SYSTEM_TURN])
def test_an_image_outside_a_prompt_has_the_marks_of_the_template(chat: Chat, template: str) -> None:
    other = with_template(chat, template)
    (image,) = other.encode_images([grey(56, 28)])
    start, pad, end = ids_of(chat, "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
    assert other.image_ids(image) == [start, pad, pad, end]
    assert runs(other.prompts([image], ["x"])[0].ids, pad) == [2]


def test_a_template_that_ends_its_images_in_two_ways_is_refused(chat: Chat) -> None:
    uneven = tiny.TEMPLATE.replace(
        "{% else %}{{ part.text }}", "{% else %}{{ 'Question: ' + part.text }}"
    )
    other = with_template(chat, uneven)
    (image,) = other.encode_images([grey(56, 28)])
    with pytest.raises(ModelError, match="the same end of every image"):
        other.image_ids(image)


def test_a_system_turn_of_the_template_is_kept(chat: Chat) -> None:
    other = with_template(chat, WITH_SYSTEM_TURN)
    text = other.decode(other.prompt([grey(28, 28)] * 2, "x").ids)
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    assert text.count("<|image_pad|>") == 2


def test_a_template_without_places_for_images_is_refused(chat: Chat) -> None:
    with pytest.raises(ModelError, match="image places for 1 images"):
        with_template(chat, WITHOUT_IMAGES).prompt([grey(28, 28)], "x")


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), max_size=4))
def test_ids_and_images_agree(chat: Chat, sides: list[tuple[int, int]]) -> None:
    sides = [(w, h) for w, h in sides if max(w, h) <= 200 * min(w, h)]
    prompt = chat.prompt([grey(width, height) for width, height in sides], "where?")
    assert len(prompt.images) == len(sides)
    for (width, height), image in zip(sides, prompt.images, strict=True):
        _, rows, columns = image.grid
        assert image.size == EncodedSize(width, height, columns * 14, rows * 14)
        assert image.size.input_width % 28 == image.size.input_height % 28 == 0
        assert image.size.input_width * image.size.input_height <= 100 * 28 * 28
        assert len(image.pixel_values) == rows * columns
    expected = [image.grid[1] * image.grid[2] // 4 for image in prompt.images]
    assert runs(prompt.ids, chat.image_token_id) == expected


def test_each_image_keeps_its_place(chat: Chat) -> None:
    shades = [0, 90, 255]
    prompt = chat.prompt([grey(28 * (i + 1), 28, shade) for i, shade in enumerate(shades)], "x")
    assert runs(prompt.ids, chat.image_token_id) == [1, 2, 3]
    for shade, image in zip(shades, prompt.images, strict=True):
        assert np.allclose(pixels(chat, image), shade, atol=0.5)


@pytest.mark.parametrize(("width", "height"), [(2000, 500), (500, 2000), (900, 900)])
def test_a_large_image_is_resized_never_cropped(chat: Chat, width: int, height: int) -> None:
    corners = {(0, 0): 0, (0, 1): 80, (1, 0): 160, (1, 1): 250}
    whole = Image.new("L", (width, height))
    for (row, column), shade in corners.items():
        whole.paste(shade, _quarter(width, height, row, column))
    image = chat.encode_images([whole.convert("RGB")])[0]
    seen = pixels(chat, image)
    assert image.size == EncodedSize(width, height, seen.shape[1], seen.shape[0])
    assert seen.size <= 100 * 28 * 28
    middle_row, middle_column = seen.shape[0] // 2, seen.shape[1] // 2
    margin = 6  # resampling blurs the edges between the quarters
    for (row, column), shade in corners.items():
        rows = slice(margin, middle_row - margin) if row == 0 else slice(middle_row + margin, None)
        columns = (
            slice(0, middle_column - margin) if column == 0 else slice(middle_column + margin, None)
        )
        assert np.allclose(seen[rows, columns], shade, atol=1.5)


def test_an_image_that_is_too_long_is_refused(chat: Chat) -> None:
    chat.prompt([Image.new("RGB", (3, 600))], "find it")
    with pytest.raises(DataError, match="3 x 601 pixels"):
        chat.prompt([Image.new("RGB", (3, 601))], "find it")


def test_policies_never_sample_vision_tokens(chat: Chat) -> None:
    vision = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    assert set(chat.banned_ids) == set(ids_of(chat, *vision))
    assert chat.end_id not in chat.banned_ids
    assert chat.image_token_id in chat.banned_ids


@pytest.mark.parametrize(("patch_size", "factor"), [(14, 28), (16, 32)])
def test_the_size_factor_is_that_of_the_processor(chat: Chat, patch_size: int, factor: int) -> None:
    made = tiny.make("qwen3_vl", tokenizer=chat.tokenizer, patch_size=patch_size).chat
    size = made.encode_images([grey(3 * factor + 2, factor)])[0].size
    assert (size.input_width, size.input_height) == (3 * factor, factor)


def grey(width: int, height: int, shade: int = 128) -> Image.Image:
    return Image.new("RGB", (width, height), (shade, shade, shade))


def with_template(chat: Chat, template: str) -> Chat:
    tokenizer = tiny.make_tokenizer(["a few words"], size=300)
    tokenizer.chat_template = template
    (pad,) = ids_of(Chat(tokenizer, None, chat.adapter), "<|image_pad|>")
    return Chat(tokenizer, chat.image_processor, QwenVL(pad, 2))


def runs(ids: tuple[int, ...], wanted: int) -> list[int]:
    """Lengths of the unbroken runs of ``wanted``."""
    text = "".join("x" if i == wanted else " " for i in ids)
    return [len(run) for run in text.split()]


def pixels(chat: Chat, image: EncodedImage) -> Any:
    """The grey image [height, width] (0-255) that the patches hold, put together again."""
    merge, patch = chat.image_processor.merge_size, chat.image_processor.patch_size
    _, rows, columns = image.grid
    blocks = image.pixel_values.numpy().reshape(
        rows // merge, columns // merge, merge, merge, 3, -1, patch, patch
    )
    plane = blocks[:, :, :, :, 0, 0].transpose(0, 2, 4, 1, 3, 5).reshape(rows * patch, -1)
    return (plane * chat.image_processor.image_std[0] + chat.image_processor.image_mean[0]) * 255


def _quarter(width: int, height: int, row: int, column: int) -> tuple[int, int, int, int]:
    left, top = column * width // 2, row * height // 2
    return left, top, left + width // 2, top + height // 2


def test_an_answer_of_our_own_is_written_with_the_box_tokens(chat: Chat) -> None:
    """As hub checkpoints write it; the same text from a user stays text."""
    text = "<|box_start|>(1,2),(3,4)<|box_end|>"
    box_start = chat.tokenizer.get_vocab()["<|box_start|>"]
    assert chat.encode_answer(text)[0] == box_start
    assert chat.decode(chat.encode_answer(text)) == text
    assert box_start not in chat.encode(text)
    assert chat.encode_answer("plain <|im_end|>") == chat.encode("plain <|im_end|>")


@settings(max_examples=25)
@given(hostile_text)
def test_a_prompt_s_own_special_tokens_are_the_only_ones(chat: Chat, text: str) -> None:
    """The marked ones of the profile become ids; the same strings in a question do not."""
    turn = load_profile("migician").turn(question=text, num_images=1)
    ids = chat.turn_ids(turn)
    assert [i for i in ids if i in special_ids(chat)] == ids_of(
        chat, "<|box_start|>", "<|box_end|>"
    )
    assert chat.decode(ids) == "".join(segment.text for segment in turn)
    plain = "".join(segment.text for segment in turn)
    assert not special_ids(chat) & set(chat.turn_ids(plain))


@pytest.mark.parametrize(
    ("token", "message"),
    [("<|nobody|>", "does not have"), ("<|image_pad|>", "stands for a piece of an image")],
)
def test_a_special_token_that_a_prompt_cannot_hold_is_refused(
    chat: Chat, token: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        chat.turn_ids([Segment("a "), Segment(token, is_special=True)])
