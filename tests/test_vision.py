"""A frozen vision tower encodes each image once, and nothing else changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from reground.model.chat import EncodedImage
from reground.model.forward import shared_logprobs
from reground.model.load import Checkpoint
from reground.model.vision import FeatureCache, encode_images, keep_features
from reground.tinyworld import models as tiny
from reground.training.packing import TrainGroup, TrainSequence, collate
from reground.training.run import train
from worlds import World, column

pytestmark = pytest.mark.usefixtures("one_thread")
FROZEN = "tuning={vision: frozen, merger: frozen}"


def noise(checkpoint: Checkpoint, count: int, seed: int = 0) -> tuple[EncodedImage, ...]:
    draw = np.random.default_rng(seed)
    made = [draw.integers(0, 256, (56 + 28 * i, 84, 3), dtype=np.uint8) for i in range(count)]
    return checkpoint.chat.encode_images([Image.fromarray(each) for each in made])


def logprobs(checkpoint: Checkpoint, images: tuple[EncodedImage, ...]) -> Any:
    chat = checkpoint.chat
    prompt = chat.prompts(images, ["where?"])[0]
    group = TrainGroup(prompt, (TrainSequence((205, 206, 207), (1.0,) * 3),) * 2)
    packed = collate([group], pad_id=chat.pad_id, device=torch.device("cpu"))
    return shared_logprobs(checkpoint.model, packed.batch)


@pytest.mark.parametrize("architecture", get_args(tiny.Architecture))
def test_kept_features_are_those_of_the_tower(
    architecture: tiny.Architecture, tokenizer: Any
) -> None:
    checkpoint = tiny.make(architecture, tokenizer=tokenizer)
    images = noise(checkpoint, 3)
    want = logprobs(checkpoint, images)
    cache = keep_features(checkpoint.model, memory=2**30, folder=None, disk=0)
    with torch.inference_mode():
        logprobs(checkpoint, images)
    found = logprobs(checkpoint, images)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    found.sum().backward()  # what a rollout kept can be trained on
    assert cache.computed == 3


def test_memory_is_bounded_and_the_latest_used_stays(tokenizer: Any) -> None:
    checkpoint = tiny.make(tokenizer=tokenizer)
    first, second, third = noise(checkpoint, 3)
    cache = keep_features(checkpoint.model, memory=0, folder=None, disk=0)
    size = sum(
        each.nbytes for image in (first, third) for each in cache.features(checkpoint.model, image)
    )
    cache = keep_features(checkpoint.model, memory=size, folder=None, disk=0)
    for image in (first, second, first, third, first):
        encode_images(checkpoint.model, [image])
    assert cache.computed == 3
    encode_images(checkpoint.model, [second])
    assert cache.computed == 4


def test_a_folder_keeps_features_for_other_runs_of_this_tower(
    tokenizer: Any, tmp_path: Path
) -> None:
    checkpoint = tiny.make(tokenizer=tokenizer)
    images = noise(checkpoint, 2)

    def computed() -> int:
        cache = keep_features(checkpoint.model, memory=2**20, folder=tmp_path, disk=2**20)
        encode_images(checkpoint.model, images)
        return cache.computed

    assert [computed(), computed()] == [2, 0]
    with torch.no_grad():
        next(checkpoint.model.model.visual.parameters()).add_(1)
    assert [computed(), computed()] == [2, 0]


def test_a_folder_is_bounded(tokenizer: Any, tmp_path: Path) -> None:
    checkpoint = tiny.make(tokenizer=tokenizer)
    cache = keep_features(checkpoint.model, memory=0, folder=tmp_path, disk=30_000)
    for seed in range(8):
        encode_images(checkpoint.model, noise(checkpoint, 1, seed))
    assert cache.folder is not None
    sizes = [path.stat().st_size for path in cache.folder.iterdir()]
    assert 1 <= len(sizes) < 8
    assert sum(sizes) <= 30_000


def test_a_folder_is_looked_at_rarely(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny.make(tokenizer=tokenizer)
    keep_features(checkpoint.model, memory=0, folder=tmp_path, disk=2**30)
    looks: list[Path] = []
    look = Path.glob
    monkeypatch.setattr(
        Path, "glob", lambda self, pattern: looks.append(self) or look(self, pattern)
    )
    for seed in range(8):
        encode_images(checkpoint.model, noise(checkpoint, 1, seed))
    assert len(looks) == 1


def test_what_another_rank_deleted_is_no_fault(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny.make(tokenizer=tokenizer)
    cache = keep_features(checkpoint.model, memory=0, folder=tmp_path, disk=2**20)
    assert cache.folder is not None
    (cache.folder / "listed.pt").symlink_to("and-gone.pt")
    first, second = noise(checkpoint, 1), noise(checkpoint, 1, seed=1)
    encode_images(checkpoint.model, first)
    encode_images(checkpoint.model, second)  # the first is in the folder alone
    touch = os.utime

    def deleted_before(path: Path) -> None:
        path.unlink()
        touch(path)

    monkeypatch.setattr(os, "utime", deleted_before)
    encode_images(checkpoint.model, first)
    assert cache.folder is not None
    assert cache.computed == 3


def test_a_full_disk_is_told_once(
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    checkpoint = tiny.make(tokenizer=tokenizer)
    keep_features(checkpoint.model, memory=2**20, folder=tmp_path, disk=2**20)
    monkeypatch.setattr(Path, "write_bytes", full)
    encode_images(checkpoint.model, noise(checkpoint, 3))
    assert caplog.text.count("No space left on device") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("method", ["sft", "rl"])
def test_training_is_the_same_with_and_without(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    caches: list[FeatureCache] = []

    def keep(*args: Any, **options: Any) -> FeatureCache:
        caches.append(keep_features(*args, **options))
        return caches[-1]

    config = world.config(method, FROZEN, "steps=4")
    with monkeypatch.context() as patch:
        patch.setattr("reground.training.run.keep_features", keep)
        kept = train(config, tmp_path / "kept")
        patch.setattr("reground.training.run.keep_features", lambda *_, **__: None)
        plain = train(config, tmp_path / "plain")
    assert column(kept, "loss") == pytest.approx(column(plain, "loss"), rel=1e-4, abs=1e-6)
    assert caches[0].computed == 4  # the images of the world, in four steps of four samples
