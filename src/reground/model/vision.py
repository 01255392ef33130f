"""What the vision tower makes of images; a frozen one makes it once for each image."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from reground.model.adapter import EncodedImage, Features, adapter_of
from reground.model.runtime import precision

_LOG = logging.getLogger(__name__)
_CACHE = "vision_cache"  # the attribute of a model


def encode_images(model: Any, images: Sequence[EncodedImage]) -> dict[str, Any]:
    """Vision features of each image, once, in the form that the model's forward accepts."""
    if not images:
        return {}
    cache: FeatureCache | None = getattr(model, _CACHE, None)
    if cache is None:
        return {"image": _encoded(model, images)}
    found = [cache.features(model, image) for image in images]
    return {"image": adapter_of(model).joined(found)}


def dummy_vision(model: Any) -> Tensor:
    """A zero that the vision tower computed: ranks wait for its gradients and its weights."""
    adapter = adapter_of(model)
    features = adapter.features(_encoded(model, [adapter.blank(model)]))
    return 0.0 * torch.stack([each.float().sum() for each in features]).sum()


@dataclass(slots=True)
class FeatureCache:
    """Features by image, the latest used in memory, all in ``folder`` up to ``disk`` bytes.

    A key holds what the processor made of an image, so that other settings are other images, and a
    folder belongs to one tower. Images are encoded one at a time: what one gives must not depend on
    those with it.
    """

    memory: int
    folder: Path | None = None
    disk: int = 0
    computed: int = field(default=0, init=False)
    _kept: OrderedDict[str, Features] = field(default_factory=OrderedDict, init=False)
    _size: int = field(default=0, init=False)
    _free: int = field(default=0, init=False)  # bytes to write before the folder is looked at again

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copy of the model has the same frozen tower

    def features(self, model: Any, image: EncodedImage) -> Features:
        """What the frozen tower of ``model`` gives."""
        key = _key(image)
        found = self._kept.pop(key, None)
        if found is None:
            found = self._read(key, model.device) or self._computed(model, image, key)
            self._size += _bytes(found)
        self._kept[key] = found  # the latest used at the end
        while self._size > self.memory and len(self._kept) > 1:
            self._size -= _bytes(self._kept.popitem(last=False)[1])
        return found

    def _computed(self, model: Any, image: EncodedImage, key: str) -> Features:
        with torch.inference_mode(False), torch.no_grad():  # training reads it too
            found = adapter_of(model).features(_encoded(model, [image]))
        self.computed += 1
        self._write(key, found)
        return found

    def _read(self, key: str, device: torch.device) -> Features | None:
        if self.folder is None:
            return None
        path = self.folder / f"{key}.pt"
        with suppress(FileNotFoundError):  # of other images, or deleted by another rank just now
            os.utime(path)
            return tuple(torch.load(path, map_location=device, weights_only=True))
        return None

    def _write(self, key: str, found: Features) -> None:
        if self.folder is None:
            return
        content = io.BytesIO()
        torch.save([each.cpu() for each in found], content)
        partial = self.folder / f"{key}.{os.getpid()}.partial"
        try:
            partial.write_bytes(content.getvalue())
            os.replace(partial, self.folder / f"{key}.pt")
            self._free -= len(content.getvalue())
            if self._free < 0:
                self._make_room()
        except OSError as error:
            partial.unlink(missing_ok=True)
            _LOG.warning("%s: %s; features are kept in memory alone", self.folder, error)
            self.folder = None

    def _make_room(self) -> None:
        """Delete what was not used for longest, until an eighth is free.

        This process may fill an eighth of what is free before it looks again: ranks share a folder.
        """
        assert self.folder is not None
        stats = {}
        for path in self.folder.glob("*.pt"):
            with suppress(FileNotFoundError):  # another rank makes room as well
                stats[path] = path.stat()
        total = sum(stat.st_size for stat in stats.values())
        for path, stat in sorted(stats.items(), key=lambda each: each[1].st_mtime_ns):
            if total <= self.disk - self.disk // 8:
                break
            path.unlink(missing_ok=True)
            total -= stat.st_size
        self._free = (self.disk - total) // 8


def keep_features(model: Any, *, memory: int, folder: Path | None, disk: int) -> FeatureCache:
    """Let a model whose tower is frozen encode each image once."""
    if folder is not None:
        folder = folder / _tower(model)
        folder.mkdir(parents=True, exist_ok=True)
    cache = FeatureCache(memory, folder, disk)
    setattr(model, _CACHE, cache)
    return cache


def _encoded(model: Any, images: Sequence[EncodedImage]) -> Any:
    with precision(model):
        return adapter_of(model).see(model, images)


def _key(image: EncodedImage) -> str:
    total = hashlib.blake2b(repr(image.grid).encode(), digest_size=16)
    total.update(image.pixel_values.contiguous().numpy().data)
    return total.hexdigest()


def _tower(model: Any) -> str:
    total = hashlib.blake2b(digest_size=8)
    for module in adapter_of(model).tower(model):
        for name, value in module.state_dict().items():
            total.update(name.encode())
            total.update(value.detach().float().cpu().contiguous().numpy().data)
    return total.hexdigest()


def _bytes(features: Features) -> int:
    return sum(each.nbytes for each in features)
