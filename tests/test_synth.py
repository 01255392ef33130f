"""The scene world: every answer is checked against the scene by rules written anew here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import hypot

import numpy as np
import pytest
from PIL import ImageChops

from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import Sample
from reground.tinyworld import scenes as synth
from reground.tinyworld.scenes.render import draw
from reground.tinyworld.scenes.world import COLOURS, SHAPES, Sampler, Scene, SceneObject

SINGLE = ("referring", "attribute", "relation", "phrases", "listing")
MULTI = tuple(task for task in synth.TASKS if task not in SINGLE)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
NUM_VALID = 200


def pairs(task: str, count: int, seed: int = 11) -> list[tuple[Sample, tuple[Scene, ...]]]:
    return [
        (synth.sample(task, seed=seed, index=i), synth.scenes(task, seed=seed, index=i))
        for i in range(count)
    ]


# --- what a question means, by plain readings of its words -----------------------------------


def fitting(noun: str, objects: tuple[SceneObject, ...]) -> list[SceneObject]:
    words = noun.split()
    colours = [word for word in words if word in COLOURS]
    shapes = [word for word in words if word in SHAPES]
    assert len(colours) + len(shapes) + words.count("one") + words.count("shape") == len(words)
    return [
        o
        for o in objects
        if o.kind.colour in (colours or [o.kind.colour])
        and o.kind.shape in (shapes or [o.kind.shape])
    ]


POSITION: dict[str, Callable[[SceneObject], float]] = {
    "leftmost": lambda o: -o.box.x1 - o.box.x2,
    "rightmost": lambda o: o.box.x1 + o.box.x2,
    "highest": lambda o: -o.box.y1 - o.box.y2,
    "lowest": lambda o: o.box.y1 + o.box.y2,
    "largest": lambda o: o.box.area,
    "biggest": lambda o: o.box.area,
    "smallest": lambda o: -o.box.area,
}
SIDE: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left of": lambda o, a: o.box.cx < a.box.cx,
    "right of": lambda o, a: o.box.cx > a.box.cx,
    "above": lambda o, a: o.box.cy < a.box.cy,
    "below": lambda o, a: o.box.cy > a.box.cy,
}


def best(objects: list[SceneObject], score: Callable[[SceneObject], float]) -> list[SceneObject]:
    return [o for o in objects if score(o) == max(map(score, objects))]


def meant(question: str, objects: tuple[SceneObject, ...]) -> list[SceneObject]:
    """All objects that a single-image question could mean."""
    phrase = question.removeprefix("the ").replace("to the left", "left")
    phrase = phrase.replace("to the right", "right").replace("nearest", "closest")
    if anchored := re.fullmatch(r"(.+) (left of|right of|above|below|closest to) the (.+)", phrase):
        noun, relation, anchor_noun = anchored.groups()
        (anchor,) = fitting(anchor_noun, objects)
        others = [o for o in fitting(noun, objects) if o is not anchor]
        assert len(others) >= 2, "the relation is not needed"
        if relation == "closest to":
            return best(
                others, lambda o: -hypot(o.box.cx - anchor.box.cx, o.box.cy - anchor.box.cy)
            )
        return [o for o in others if SIDE[relation](o, anchor)]
    first, _, noun = phrase.partition(" ")
    if first in POSITION:
        rivals = fitting(noun, objects)
        assert len(rivals) >= 2, "the superlative is not needed"
        return best(rivals, POSITION[first])
    return fitting(phrase, objects)


@pytest.mark.parametrize("task", ["referring", "attribute", "relation", "relation@2-2"])
def test_exactly_one_object_is_meant(task: str) -> None:
    for sample, (scene,) in pairs(task, 400):
        (target,) = meant(sample.question, scene.objects)
        assert (target.box,) == sample.boxes, sample.id


def test_phrases_come_in_order() -> None:
    for sample, (scene,) in pairs("phrases", NUM_VALID):
        phrases = sample.question.split(", ")
        found = [fitting(phrase.removeprefix("the "), scene.objects) for phrase in phrases]
        assert [[o.box for o in each] for each in found] == [[box] for box in sample.boxes]
        placed = re.findall(r"(the \w+ \w+) is at the", sample.think or "")
        assert placed == phrases


def test_listing_goes_from_left_to_right() -> None:
    for sample, (scene,) in pairs("listing", NUM_VALID):
        assert {o.box for o in scene.objects} == set(sample.boxes)
        assert len(scene.objects) == len(sample.boxes)
        assert [box.x1 for box in sample.boxes] == sorted(box.x1 for box in sample.boxes)
        names = [re.match(r"an? (\w+ \w+) at", part) for part in (sample.think or "").split(", ")]
        by_box = {o.box: o.name for o in scene.objects}
        assert [name and name[1] for name in names] == [by_box[box] for box in sample.boxes]


def marked(scene: Scene) -> SceneObject:
    (target,) = (o for o in scene.objects if o.box == scene.mark)
    return target


def of_kind(scene: Scene, like: SceneObject) -> list[SceneObject]:
    return [o for o in scene.objects if o.name == like.name]


def look(o: SceneObject) -> tuple[str, tuple[float, ...]]:
    return o.name, o.box.xyxy


def answers_diff(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    other = {look(o) for o in scenes[1 - sample.target_image].objects}
    return [o for o in scenes[sample.target_image].objects if look(o) not in other]


def answers_view_diff(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    return [o for o in scenes[1].objects if not of_kind(scenes[0], o)]


def answers_common(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    asked = scenes[sample.target_image].objects
    return [o for o in asked if all(of_kind(scene, o) for scene in scenes)]


def answers_tracking(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    if scenes[0].mark is None:
        name = sample.question.removeprefix("the ").partition(" of the first image")[0]
        (here,) = fitting(name, scenes[0].objects)
    else:
        here = marked(scenes[0])
    for scene in scenes[1 : sample.target_image + 1]:
        steps = [
            hypot(o.box.cx - here.box.cx, o.box.cy - here.box.cy) for o in of_kind(scene, here)
        ]
        assert sorted(steps)[0] <= 7 and all(step >= 13 for step in sorted(steps)[1:])
        here = of_kind(scene, here)[steps.index(min(steps))]
    return [here]


def answers_multi_view(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    return of_kind(scenes[sample.target_image], marked(scenes[0]))


def answers_refer(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    (shown,) = scenes[0].objects
    return of_kind(scenes[1], shown)


def answers_group(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    noun = sample.question.removeprefix("the ")
    found = [fitting(noun, scene.objects) for scene in scenes]
    assert [bool(each) for each in found].index(True) == sample.target_image
    assert f"It is in the {ORDINALS[sample.target_image]} image." in (sample.think or "")
    return [o for each in found for o in each]


CORNERS = {"triangle": 3, "square": 4, "diamond": 4, "circle": 0, "ring": 0, "cross": 12}


def answers_reasoning(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    first, second = (scene.objects for scene in scenes)
    if "corners" in sample.question:
        (number,) = {CORNERS[o.kind.shape] for o in first}
        return [o for o in second if CORNERS[o.kind.shape] == number]
    trait = "colour" if "colour" in sample.question else "shape"
    counts = Counter(getattr(o.kind, trait) for o in first)
    ((most, number),) = counts.most_common(1)
    assert number > len(first) / 2
    return [o for o in second if getattr(o.kind, trait) == most]


def answers_correspondence(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    first, second = list(scenes[0].objects), list(scenes[1].objects)
    roles = [score for score in POSITION.values() if marked(scenes[0]) in best(first, score)]
    assert roles
    return list({look(o): o for score in roles for o in best(second, score)}.values())


def answers_video(sample: Sample, scenes: tuple[Scene, ...]) -> list[SceneObject]:
    assert len(scenes) == 6 and sample.target_image == 2
    first, third, last = (scenes[i].objects for i in (0, 2, 5))
    if place := re.match(r"the object that is (\w+) in the first image", sample.question):
        chosen = best(list(first), POSITION[place[1]])
    else:
        match = re.match(r"the (\w+) that (?:moves|stays) (\w+)\.", sample.question)
        assert match
        noun, way = match.groups()
        turned = {(-1, 0): "left", (1, 0): "right", (0, -1): "up", (0, 1): "down", (0, 0): "still"}
        ways = [
            turned[int(np.sign(b.box.cx - a.box.cx)), int(np.sign(b.box.cy - a.box.cy))]
            for a, b in zip(first, last, strict=True)
        ]
        chosen = [
            o
            for o, w in zip(first, ways, strict=True)
            if w == way and noun in ("object", o.kind.shape)
        ]
    return [third[first.index(o)] for o in chosen]


ANSWERS = {
    "diff": answers_diff,
    "view_diff": answers_view_diff,
    "common_object": answers_common,
    "object_tracking": answers_tracking,
    "multi_view": answers_multi_view,
    "refer_grounding": answers_refer,
    "group_grounding": answers_group,
    "reasoning": answers_reasoning,
    "correspondence": answers_correspondence,
    "video": answers_video,
}


@pytest.mark.parametrize("task", ANSWERS)
def test_exactly_one_object_answers_a_question_about_several_images(task: str) -> None:
    for sample, scenes in pairs(task, NUM_VALID):
        (target,) = ANSWERS[task](sample, scenes)
        assert (target.box,) == sample.boxes, sample.id
        if task != "group_grounding":
            asked = ORDINALS[sample.target_image]
            assert sample.question.endswith(f". find it in the {asked} image")
            assert f"in the {asked} image" in (sample.think or "")


def test_a_region_is_where_its_crop_was_taken() -> None:
    for sample, (source, *crops) in pairs("region", NUM_VALID):
        asked = re.match(r"the region in the (\w+) image", sample.question)
        assert asked and sample.target_image == 0
        crop = crops[ORDINALS.index(asked[1]) - 1]
        (window,) = sample.boxes
        scale = 112 / window.width
        kinds = [frozenset(o.name for o in each.objects) for each in crops]
        assert len(set(kinds)) == len(kinds), "two crops show the same objects"
        shown = {o.name: o.box.xyxy for o in crop.objects}
        for o in source.objects:
            x1, y1, x2, y2 = o.box.xyxy
            inside = window.x1 < x2 and x1 < window.x2 and window.y1 < y2 and y1 < window.y2
            assert inside == (o.name in shown)
            if inside:
                moved = np.array([x1, y1, x2, y2]) - [window.x1, window.y1] * 2
                assert np.abs(moved * scale - shown[o.name]).max() <= 1


# --- what holds for every sample --------------------------------------------------------------


@pytest.mark.parametrize("task", synth.TASKS)
def test_every_sample_is_valid(task: str) -> None:
    for i, (sample, scenes) in enumerate(pairs(task, NUM_VALID)):
        assert sample.id == f"{task}-11-{i}" and sample.task == task
        assert [image.path for image in sample.images] == [
            f"synth:{task}/11/{i}/{j}" for j in range(len(scenes))
        ]
        assert all((image.width, image.height) == (112, 112) for image in sample.images)
        assert sample.boxes and all(t.image == sample.target_image for t in sample.targets)
        assert all(box.overhang() == 0 and not box.is_degenerate for box in sample.boxes)
        assert sample.difficulty is not None and 0 <= sample.difficulty <= 1
        assert set(sample.strata) == {"kind", "distractor", "objects"}
        objects = scenes[sample.target_image].objects
        assert sample.strata["objects"] == str(len(objects))
        assert task == "region" or set(sample.boxes) <= {o.box for o in objects}
        assert Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample
        if task in MULTI:
            assert 2 <= len(scenes) <= 6 and len(sample.boxes) == 1


@pytest.mark.parametrize("task", synth.TASKS)
def test_chains_are_short_and_without_digits(task: str) -> None:
    most_words = {"listing": 40, "phrases": 32}.get(task, 30)  # they name several objects
    for sample, _ in pairs(task, NUM_VALID):
        assert sample.think and sample.think.endswith(".")
        assert not re.search(r"\d", sample.think + sample.question)
        assert len(sample.think.split()) <= most_words, sample.think


def test_the_language_is_small() -> None:
    texts = [s.question + " " + (s.think or "") for t in synth.TASKS for s, _ in pairs(t, 100)]
    assert len(set(re.findall(r"[a-z]+", " ".join(texts).lower()))) <= 130


@pytest.mark.parametrize("task", synth.TASKS)
def test_objects_keep_their_size_and_their_distance(task: str) -> None:
    for _, scenes in pairs(task, NUM_VALID):
        for scene in scenes[:1] if task == "region" else scenes:
            for i, o in enumerate(scene.objects):
                assert_fits(o.box)
                assert all(distance(o.box, other.box) >= 2 for other in scene.objects[:i])


def assert_fits(box: Box) -> None:
    width, height = box.width, box.height
    assert all(value == int(value) for value in box.xyxy)
    assert {width, height} <= set(range(16, 44))
    assert 0.02 <= box.area / 112**2 <= 0.15
    assert max(width, height) <= 1.65 * min(width, height)
    assert min(box.x1, box.y1) >= 2 and max(box.x2, box.y2) <= 110


def distance(a: Box, b: Box) -> float:
    return max(a.x1 - b.x2, b.x1 - a.x2, a.y1 - b.y2, b.y1 - a.y2)


@pytest.mark.parametrize("task", synth.TASKS)
def test_the_drawn_pixels_of_an_object_span_its_box(task: str) -> None:
    for _, scenes in pairs(task, 40):
        for scene in scenes:
            whole = draw(scene)
            for o in scene.objects:
                rest = tuple(each for each in scene.objects if each is not o)
                without = draw(replace(scene, objects=rest))
                drawn = ImageChops.difference(whole, without).getbbox()
                assert drawn == tuple(map(int, o.box.xyxy)), o


def test_a_mark_is_a_red_outline_two_pixels_outside() -> None:
    scene = synth.scenes("multi_view", seed=11, index=0)[0]
    assert scene.mark is not None
    drawn = ImageChops.difference(draw(scene), draw(replace(scene, mark=None))).getbbox()
    x1, y1, x2, y2 = map(int, scene.mark.xyxy)
    assert drawn == (x1 - 2, y1 - 2, x2 + 2, y2 + 2)
    assert draw(scene).getpixel((x1 - 2, y1 - 2)) == (255, 0, 0)


def test_colours_stand_out_from_every_background_and_from_each_other() -> None:
    rng = Sampler(0)
    grounds = [rng.background() for _ in range(300)]
    ground = np.array([colour for each in grounds for colour in (each.base, each.other)])
    seen = np.array([o.rgb for _, (s,) in pairs("referring", 300) for o in s.objects])
    assert np.linalg.norm(seen[:, None].astype(float) - ground, axis=-1).min() > 80
    means = np.array([*COLOURS.values()], dtype=float)
    apart = np.linalg.norm(means[:, None] - means, axis=-1)
    assert apart[~np.eye(len(means), dtype=bool)].min() > 80


def test_referring_keeps_its_promised_shares() -> None:
    samples = [sample for sample, _ in pairs("referring", 600)]
    kinds = Counter(sample.strata["kind"] for sample in samples)
    assert kinds["relation"] >= 200 and kinds["attribute"] >= 200
    assert sum(sample.strata["distractor"] == "yes" for sample in samples) >= 300
    assert {sample.strata["objects"] for sample in samples} == {"2", "3", "4", "5"}
    asked = " ".join(sample.question for sample in samples)
    words = [*POSITION, *SIDE, "closest to", "nearest to", " one", "shape"]
    assert [word for word in words if word not in asked] == []
    full = [s for s in samples if re.fullmatch(r"the \w+ \w+", s.question)]
    full = [s for s in full if s.strata["kind"] == "attribute" and " one" not in s.question]
    assert len(full) > kinds["attribute"] / 2


def test_the_distractor_stratum_is_what_the_scene_holds() -> None:
    for sample, (scene,) in pairs("referring", NUM_VALID):
        (target,) = (o for o in scene.objects if o.box == sample.boxes[0])
        others = [o for o in scene.objects if o is not target]
        alike = any(
            o.kind.colour == target.kind.colour or o.kind.shape == target.kind.shape for o in others
        )
        assert sample.strata["distractor"] == ("yes" if alike else "no")


def test_only_relations_may_face_two_objects_of_a_kind() -> None:
    for task in ("referring", "attribute", "phrases", "listing"):
        for sample, (scene,) in pairs(task, NUM_VALID):
            names = [o.name for o in scene.objects]
            assert len(set(names)) == len(names) or sample.strata["kind"] == "relation"


# --- access -------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", synth.TASKS)
def test_samples_do_not_depend_on_what_was_asked_before(task: str) -> None:
    forward = pairs(task, 12)
    synth._draft.cache_clear()
    backward = [synth.sample(task, seed=11, index=i) for i in reversed(range(12))]
    assert [sample for sample, _ in forward] == backward[::-1]
    assert [scenes for _, scenes in forward] == [scenes for _, scenes in pairs(task, 12)]


def test_samples_do_not_depend_on_the_process() -> None:
    code = (
        "import hashlib, json; from reground.tinyworld import scenes as synth\n"
        "rows = [synth.sample(t, seed=5, index=i) for t in synth.TASKS for i in range(5)]\n"
        "text = json.dumps([row.to_json() for row in rows])\n"
        "pixels = b''.join(synth.render(i.path).tobytes() for row in rows for i in row.images)\n"
        "print(hashlib.sha256(text.encode() + pixels).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_scenes_are_those_of_the_published_figures() -> None:
    """Models were trained and measured on them: another scene for a seed is another benchmark."""
    drawn = [
        [asked(sample), *map(drawn_scene, scenes)]
        for task in synth.TASKS
        for sample, scenes in pairs(task, 20)
    ]
    digest = hashlib.sha256(json.dumps(drawn).encode()).hexdigest()
    assert digest == "5b16522ed5ce06bc0ed17f361bf7f40ff2494cf49aeac0e6814886d23ba56e57"


def asked(sample: Sample) -> list[object]:
    boxes = [box.xyxy for box in sample.boxes]
    return [sample.question, sample.target_image, boxes, sample.think, sample.difficulty,
            sample.strata]  # fmt: skip


def drawn_scene(scene: Scene) -> list[object]:
    ground, mark = scene.background, scene.mark
    objects = [[o.name, o.box.xyxy, o.rgb] for o in scene.objects]
    return [ground.style, ground.base, ground.other, ground.horizontal, objects, mark and mark.xyxy]


@pytest.mark.parametrize("task", synth.TASKS)
def test_seeds_and_indices_differ(task: str) -> None:
    boxes = {
        tuple(box.xyxy for box in synth.sample(task, seed=seed, index=i).boxes)
        for seed in range(3)
        for i in range(10)
    }
    assert len(boxes) == 30


@pytest.mark.parametrize("task", synth.TASKS)
def test_a_path_renders_its_scene(task: str) -> None:
    sample, scenes = pairs(task, 3)[2]
    for image, scene in zip(sample.images, scenes, strict=True):
        rendered = synth.render(image.path)
        assert rendered.mode == "RGB" and rendered.size == (112, 112)
        assert rendered.tobytes() == draw(scene).tobytes()


@pytest.mark.parametrize("task", ["referring", "attribute", "phrases", "listing", "multi_view"])
def test_a_task_may_carry_a_range_of_objects(task: str) -> None:
    counts = Counter(len(scenes[0].objects) for _, scenes in pairs(f"{task}@1-3", 60))
    assert set(counts) == {1, 2, 3}
    sample = synth.sample(f"{task}@1-3", seed=0, index=4)
    assert sample.id == f"{task}@1-3-0-4" and sample.task == task
    assert sample.images[0].path == f"synth:{task}@1-3/0/4/0"
    assert synth.render(sample.images[0].path).size == (112, 112)


@pytest.mark.parametrize("task", synth.TASKS)
def test_every_task_can_do_with_few_and_with_many_objects(task: str) -> None:
    fewest = 2 if task in ("relation", "correspondence", "video") else 1
    for spec in (f"{task}@{fewest}-{fewest}", f"{task}@6-6"):
        for sample, _ in pairs(spec, 3):
            assert sample.boxes


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("refering", "did you mean 'referring'"),
        ("object_traking@1-3", "did you mean 'object_tracking'"),
        ("zebra", "tasks: referring, "),
        ("referring@3", "write TASK or TASK@LOW-HIGH"),
        ("referring@3-2", "asks for 3 to 2 objects"),
        ("referring@0-2", "within 1-6"),
        ("relation@1-3", "within 2-6"),
        ("listing@1-9", "within 1-6"),
    ],
)
def test_a_wrong_task_says_what_to_write(task: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        synth.sample(task, seed=0, index=0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("synth:referring/0/7", "expected synth:TASK/SEED/INDEX/IMAGE"),
        ("photo.jpg", "expected synth:TASK/SEED/INDEX/IMAGE"),
        ("synth:refering/0/7/0", "did you mean 'referring'"),
        ("synth:referring/0/7/1", "image 1 of a sample with 1"),
    ],
)
def test_a_wrong_path_says_what_was_expected(path: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        synth.render(path)
