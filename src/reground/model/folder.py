"""The one door to a model's folder: found, read and checked before anything is made of it.

A folder may be a stranger's. None of its code runs, no pickle is read, and what is missing, broken
or of another model is one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from reground.errors import DataError, ModelError, did_you_mean
from reground.io import parse_json
from reground.plugins import installed

T = TypeVar("T")

CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"
PROCESSOR, IMAGES, VIDEOS = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
TEMPLATE, JINJA = "chat_template.json", "chat_template.jinja"
GENERATION = "generation_config.json"
SIDE_FILE = "reground.json"  # how this checkpoint answers
_SETTINGS = (
    *(CONFIG, GENERATION, TOKENIZER, PROCESSOR, IMAGES, VIDEOS, TEMPLATE),
    *("special_tokens_map.json", "added_tokens.json", "adapter_config.json", SIDE_FILE),
)
_VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")
_SAFE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Folder:
    """A checkpoint as it was published: its files but for the weights, by name.

    ``name`` is what the user called it, ``source`` the folder or hub id.
    """

    name: str
    source: str
    files: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def open(cls, path: str) -> Folder:
        """A folder, a run (its newest checkpoint), a hub id, or a name that a package registers.

        Raises ``ModelError`` where there is none, where a file of settings is no JSON, and where
        one asks for code of its own.
        """
        source = resolve(path)
        of = _of_folder if Path(source).is_dir() else _of_hub
        found = reading(lambda: of(source), path)
        folder = cls(path, source, found)
        for name in _SETTINGS:
            if name != SIDE_FILE:  # whose reader says more
                folder._check(name, folder.settings(name))
        if CONFIG not in found:
            raise ModelError(
                f"{path}: holds no {CONFIG}; expected a checkpoint's folder, a run of `reground "
                "train` that has saved a checkpoint, a hub id, or 'tiny'",
                help="incomplete-checkpoint",
            )
        return folder

    def settings(self, name: str) -> dict[str, Any]:
        """What a file of settings says; nothing where there is none."""
        try:
            value = parse_json(self.files.get(name, b"{}"))
        except DataError as error:
            raise ModelError(f"{self.name}: {name} is {error}; {_ANEW}") from None
        if not isinstance(value, dict):
            raise ModelError(
                f"{self.name}: {name} holds {type(value).__name__}, expected an object; {_ANEW}"
            )
        return value

    def check_files(self) -> None:
        """Raise ``ModelError`` where the tokenizer or the image processor is missing."""
        there = set(self.files)
        vocabularies = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})
        if not any(each <= there for each in vocabularies):
            raise ModelError(
                f"{self.name}: holds no tokenizer; expected tokenizer.json, or vocab.json with "
                "merges.txt; copy them from the checkpoint that it was made from",
                help="incomplete-checkpoint",
            )
        if not (IMAGES in there or "image_processor" in self.settings(PROCESSOR)):
            raise ModelError(
                f"{self.name}: holds no {IMAGES}, which says how images are cut; {_ANEW}",
                help="incomplete-checkpoint",
            )

    def read(self, kind: Any, **options: Any) -> Any:
        """What ``kind.from_pretrained`` makes of it, by transformers' own code alone."""
        options["trust_remote_code"] = False
        return reading(lambda: kind.from_pretrained(self.source, **options), self.name)

    def check_weights(self) -> None:
        """Raise ``ModelError`` for weights that are missing, cut or pickled.

        Those of a hub id are transformers' to find.
        """
        folder = Path(self.source)
        if not folder.is_dir():
            return
        names = [_SAFE]
        if (folder / _INDEX).is_file() and not (folder / _SAFE).is_file():
            names = self._shards()
        if missing := [name for name in names if not (folder / name).is_file()]:
            pickled = sorted(each.name for end in _PICKLED for each in folder.glob(end))
            also = f" and has {pickled[0]}, a pickle, which may run code" if pickled else ""
            raise ModelError(
                f"{self.name}: lacks {missing[0]}{also}; expected weights in safetensors, all "
                "parts of them; download it again, or save the model anew with transformers",
                help="incomplete-checkpoint",
            )
        for name in names:
            try:
                with safe_open(folder / name, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise ModelError(
                    f"{self.name}: {name} cannot be read ({first_line(error)}); expected whole "
                    "weights in safetensors; copy or download the file again",
                    help="incomplete-checkpoint",
                ) from None

    def _shards(self) -> list[str]:
        try:
            index = parse_json((Path(self.source) / _INDEX).read_bytes())
            names = sorted(set(index["weight_map"].values()))
            if not names or any(Path(name).name != name for name in names):
                raise ValueError("weight_map names no files of this folder")
        except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.name}: {_INDEX} does not say where weights are ({error!r}); {_ANEW}",
                help="incomplete-checkpoint",
            ) from None
        return names

    def _check(self, name: str, settings: dict[str, Any]) -> None:
        if name == "adapter_config.json" and settings:
            raise ModelError(
                f"{self.name}: holds adapters for another model ({name}); expected a whole model; "
                "merge them into theirs first, as merge_and_unload of PEFT does"
            )
        if "auto_map" in _keys(settings):
            raise ModelError(
                f"{self.name}: {name} asks for code of its own (auto_map), which is never run; "
                "expected a checkpoint of a model type of transformers; where it is one, delete "
                "auto_map",
                help="code-of-its-own",
            )


_ANEW = "copy the file from the checkpoint that it was made from"


def resolve(path: str) -> str:
    """The folder or hub id that ``path`` stands for; raises ``ModelError`` where there is none."""
    shipped = installed("checkpoints")
    if path in shipped and isinstance(folder := shipped[path].load(), Path):
        return str(folder)
    owner, *rest = path.split("/")
    is_hub_id = len(rest) == 1 and not Path(owner).exists()
    if not Path(path).exists() and not is_hub_id:
        expected = (
            "expected a run of `reground train` that has saved a checkpoint, a checkpoint's "
            "folder, a hub id (owner/name), or a shipped model: " + ", ".join(shipped)
        )
        hint = did_you_mean(path, shipped, otherwise=expected)
        raise ModelError(f"{path}: no such run or folder; {hint}", help="no-such-checkpoint")
    folders = Path(path).glob("checkpoints/step-*/model")
    steps = {folder.parent.name[5:]: folder for folder in folders}
    whole = {int(number): folder for number, folder in steps.items() if number.isdigit()}
    return str(whole[max(whole)]) if whole else path


def commit_of(source: str, name: str) -> str | None:
    """The commit of a hub id, by the folder of its cache; None of a folder."""
    if Path(source).is_dir():
        return None
    found = reading(lambda: cached_file(source, CONFIG), name)
    return Path(found).parent.name if found else None


def reading(make: Callable[[], T], name: str) -> T:
    """What ``make`` reads; whatever a stranger's files make it raise is a ``ModelError``."""
    try:
        return make()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name}: no checkpoint could be read ({first_line(error)}); "
            "expected a folder with config.json, a run, a hub id, or 'tiny'",
            help="no-such-checkpoint",
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[:2])[:300]


def _of_folder(source: str) -> dict[str, bytes]:
    paths = {name: Path(source) / name for name in (*_SETTINGS, *_VOCABULARY)}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


@cache  # each file is a request
def _of_hub(source: str) -> dict[str, bytes]:
    found = {
        name: cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        for name in (*_SETTINGS, *_VOCABULARY)
    }
    return {name: Path(path).read_bytes() for name, path in found.items() if path is not None}


def _keys(value: Any) -> Iterator[str]:
    """The keys of all objects in a value of JSON."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as items:
                yield from items
                waiting += items.values()
            case list() as items:
                waiting += items
