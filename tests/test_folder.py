"""Folders of strangers: what is missing, broken or of another model is one sentence, and no code of
theirs runs.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, ProcessorMixin

from files import write
from reground.api import Grounder
from reground.cli import app
from reground.errors import ModelError, RunError, UserError
from reground.evaluation.records import read_run
from reground.model.load import load, save
from reground.tinyworld import models as tiny
from reground.training.export import export
from reground.training.run import train
from worlds import World

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    save(tiny.make("qwen2_5_vl", tokenizer=tokenizer), folder)
    return folder


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_folder, tmp_path / "model")


def setting(name: str, **values: Any) -> Break:
    """Changes keys of a file of settings."""
    return lambda folder: write(folder / name, read(folder / name) | values)


def of_part(name: str, part: str, **values: Any) -> Break:
    return lambda folder: write(
        folder / name, (own := read(folder / name)) | {part: own[part] | values}
    )


def text(name: str, content: str) -> Break:
    return lambda folder: (folder / name).write_text(content)


def without(*names: str) -> Break:
    def run(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return run


def cut(name: str) -> Break:
    def run(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return run


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def in_shards(folder: Path) -> None:
    """The weights as two files and their index."""
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(state)
    places: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    write(folder / INDEX, {"metadata": {}, "weight_map": places})


def then(*breaks: Break) -> Break:
    return lambda folder: [each(folder) for each in breaks]


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    def run(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return run


class Evil:
    """Leaves a mark where a pickle of it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("mark").touch, ())


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def own_code(name: str, **more: Any) -> Break:
    """A file of settings that names code of the folder's own, which leaves a mark."""

    def run(folder: Path) -> None:
        (folder / "evil.py").write_text("open('mark', 'w')\nclass Evil: pass\n")
        auto = dict.fromkeys(
            ("AutoConfig", "AutoModelForImageTextToText", "AutoImageProcessor", "AutoProcessor"),
            "evil.Evil",
        )
        own = read(folder / name)
        write(
            folder / name, own | {"auto_map": auto | {"AutoTokenizer": ["evil.Evil", None]}} | more
        )

    return run


SECOND = "model-00002-of-00002.safetensors"
LAYER = "model.layers.0.mlp.down_proj.weight"
CLIP = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}}

BROKEN: Mapping[str, tuple[Break, str]] = {
    "no config": (without("config.json"), r"holds no config.json; expected a checkpoint's folder"),
    "a config that is cut": (cut("config.json"), "config.json is not JSON"),
    "a list": (text("config.json", "[]"), "config.json holds list, expected an object"),
    "an unknown type": (setting("config.json", model_type="x"), "model type 'x' is not known"),
    "no type": (setting("config.json", model_type=None), "model type None is not known"),
    "a type that is a list": (setting("config.json", model_type=[]), "model type .* not known"),
    "numbers as words": (
        of_part("config.json", "text_config", hidden_size="wide"),
        "no checkpoint could be read .*hidden_size",
    ),
    "no vision": (
        setting("config.json", vision_config=7),
        "no checkpoint could be .*vision_config",
    ),
    "another width": (
        of_part("config.json", "text_config", hidden_size=128),
        r"\d+ weights are missing or of another shape",
    ),
    "code in config.json": (own_code("config.json"), r"config.json asks for code of its own"),
    "code of an unknown type": (
        own_code("config.json", model_type="evil"),
        r"config.json asks for code of its own \(auto_map\), which is never run",
    ),
    "code of a tokenizer": (
        own_code("tokenizer_config.json", tokenizer_class="Evil"),
        "tokenizer_config.json asks for code",
    ),
    "code of an image processor": (
        own_code("preprocessor_config.json"),
        "preprocessor_config.json asks for code",
    ),
    "code of a processor": (own_code("processor_config.json"), "processor_config.json asks for"),
    "code in a part of a processor": (
        lambda folder: write(
            folder / "processor_config.json", {"video_processor": {"auto_map": {"A": "evil.B"}}}
        ),
        "processor_config.json asks for code",
    ),
    "code of a video processor": (
        own_code("video_preprocessor_config.json"),
        "video_preprocessor_config.json asks for",
    ),
    "an adapter": (
        lambda folder: write(folder / "adapter_config.json", {"peft_type": "LORA"}),
        "adapters for another model .*; expected a whole model; merge",
    ),
    "no weights": (without(WEIGHTS), "lacks model.safetensors; expected weights in safetensors"),
    "pickled weights": (pickled, "has pytorch_model.bin, a pickle, which may run code; expected"),
    "cut weights": (cut(WEIGHTS), r"model.safetensors cannot be read \("),
    "empty weights": (text(WEIGHTS, ""), r"model.safetensors cannot be read \("),
    "a missing shard": (then(in_shards, without(SECOND)), f"lacks {SECOND}"),
    "a cut shard": (then(in_shards, cut(SECOND)), f"{SECOND} cannot be read"),
    "a cut index": (then(in_shards, cut(INDEX)), f"{INDEX} does not say where weights are"),
    "an index elsewhere": (
        then(in_shards, lambda folder: write(folder / INDEX, {"weight_map": {"a": "../b"}})),
        f"{INDEX} does not say where weights are",
    ),
    "an index of nothing": (
        then(in_shards, lambda folder: write(folder / INDEX, {"weight_map": {}})),
        f"{INDEX} does not say where weights are",
    ),
    "a missing weight": (
        weights(lambda own: own.pop(LAYER)),
        "1 weights are missing or of another",
    ),
    "a weight of another shape": (
        weights(lambda own: own.update({LAYER: own[LAYER][:3].contiguous()})),
        "1 weights are missing or of another shape",
    ),
    "no tokenizer": (without("tokenizer.json"), "holds no tokenizer; expected tokenizer.json"),
    "a cut tokenizer": (cut("tokenizer.json"), "no checkpoint could be read"),
    "cut settings of a tokenizer": (
        cut("tokenizer_config.json"),
        "tokenizer_config.json is not JS",
    ),
    "no end": (setting("tokenizer_config.json", eos_token=None), "names no eos_token, which ends"),
    "a foreign tokenizer": (
        of_part("config.json", "text_config", vocab_size=100),
        r"its tokenizer has ids up to \d+, and the model has room for 100",
    ),
    "a foreign image token": (
        setting("config.json", image_token_id=99_999_999),
        r"has the id \d+ for <\|image_pad\|>, and config.json says 99999999",
    ),
    "no image processor": (
        without("preprocessor_config.json"),
        "holds no preprocessor_config.json",
    ),
    "a cut image processor": (cut("preprocessor_config.json"), "preprocessor_config.json is not"),
    "another patch": (
        setting("preprocessor_config.json", patch_size=16),
        r"\(16, 2, 1\), and its mo",
    ),
    "another merge": (
        setting("preprocessor_config.json", merge_size=1),
        r"\(14, 1, 1\), and its mo",
    ),
    "a foreign image processor": (
        lambda folder: write(folder / "preprocessor_config.json", CLIP),
        r"its image processor is CLIPImageProcessor",
    ),
    "cut ends": (cut("generation_config.json"), "generation_config.json is not JSON"),
    "ends as words": (
        setting("generation_config.json", eos_token_id=["<|im_end|>"]),
        "generation_config.json says eos_token_id .*, expected ids",
    ),
    "how it answers, cut": (text("reground.json", "{"), "does not say how the checkpoint answers"),
    "how it answers, a list": (text("reground.json", "[1]"), "does not say how the checkpoint ans"),
    "how it answers, of other types": (
        setting("reground.json", family=5, zoom="x"),
        "does not say how the checkpoint answers",
    ),
    "a prompt elsewhere": (
        setting("reground.json", prompts={"direct": "../../notes.txt"}),
        "names the prompt '../../notes.txt', which this version does not have",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_one_sentence(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, says = BROKEN[name]
    damage(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", None)  # nobody is asked
    with pytest.raises(ModelError, match=says) as found:
        load(str(folder))
    assert "\n" not in str(found.value)
    assert not (tmp_path / "mark").exists()


VERBS: Mapping[str, Callable[[Path, Path], object]] = {
    "eval": lambda folder, out: call(
        *("eval", "--model", str(folder), "--data", "synth:referring"),
        *("--limit", "1", "--out", str(out / "eval")),
    ),
    "predict": lambda folder, out: call("predict", picture(out), "cup", "--model", str(folder)),
    "train": lambda folder, out: train_from(folder, out),
    "Grounder": lambda folder, out: Grounder.from_pretrained(str(folder)),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "name", ["no config", "code of a tokenizer", "pickled weights", "a foreign image token"]
)
def test_every_verb_says_so(folder: Path, tmp_path: Path, verb: str, name: str) -> None:
    damage, says = BROKEN[name]
    damage(folder)
    with pytest.raises(ModelError, match=says):
        VERBS[verb](folder, tmp_path)
    assert not (tmp_path / "eval").exists()
    assert not (tmp_path / "run").exists()


def call(*words: str) -> None:
    typer.main.get_command(app)(list(words), standalone_mode=False)


def picture(folder: Path) -> str:
    Image.new("RGB", (60, 60)).save(folder / "grey.png")
    return str(folder / "grey.png")


def train_from(folder: Path, out: Path) -> None:
    (out / "config.yaml").write_text('method: sft\ndata: [{mix: {"synth:referring": 1.0}}]\n')
    words = (f"model={folder}", "steps=1", "batch_size=1", "--out", str(out / "run"))
    call("train", str(out / "config.yaml"), *words)


def test_weights_in_shards_are_those_in_one_file(folder: Path, whole_folder: Path) -> None:
    in_shards(folder)
    states = [load(str(each)).model.state_dict() for each in (folder, whole_folder)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_hub_id_is_evaluated_and_told_by_its_commit(whole_folder: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    there = tmp_path / "hub/models--owner--name"
    shutil.copytree(whole_folder, there / "snapshots" / commit)
    (there / "refs").mkdir()
    (there / "refs/main").write_text(commit)
    words = ["--data", "synth:referring", "--limit", "1", "--max-tokens", "2", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "reground", "eval", "--model", "owner/name", *words, "--out", "out"],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "out").weights == commit


# ---- templates ---------------------------------------------------------------------------------

BLIND = "{% for message in messages %}{{ message.role + ': ' + message.content }}{% endfor %}"


def seeing(mark: str) -> str:
    """A template that knows images, with a mark to tell it from others."""
    return mark + tiny.TEMPLATE


TEMPLATES: Mapping[str, tuple[Mapping[str, str], str]] = {
    "the tokenizer's": ({"tokenizer": seeing("A")}, "A"),
    "the processor's before the tokenizer's": (
        {"tokenizer": seeing("A"), "chat_template.json": seeing("B")},
        "B",
    ),
    "not one that knows no images": ({"tokenizer": BLIND, "chat_template.json": seeing("B")}, "B"),
    "the tokenizer's where the processor's knows none": (
        {"tokenizer": seeing("A"), "chat_template.json": BLIND},
        "A",
    ),
    "a file of its own": ({"chat_template.jinja": seeing("C")}, "C"),
    "a file of its own before the tokenizer's": (
        {"tokenizer": seeing("A"), "chat_template.jinja": seeing("C")},
        "C",
    ),
    "the older file before the newer": (
        {"chat_template.json": seeing("B"), "chat_template.jinja": seeing("C")},
        "B",
    ),
    "the processor's settings first": (
        {"processor_config.json": seeing("D"), "chat_template.json": seeing("B")},
        "D",
    ),
    "one of another name": (
        {"chat_template.jinja": BLIND, "additional_chat_templates/vision.jinja": seeing("E")},
        "E",
    ),
    "one of another name last": (
        {"chat_template.jinja": seeing("C"), "additional_chat_templates/vision.jinja": seeing("E")},
        "C",
    ),
}


def put(folder: Path, templates: Mapping[str, str]) -> None:
    (folder / "chat_template.json").unlink()
    tokenizer = read(folder / "tokenizer_config.json") | {"chat_template": None}
    write(folder / "tokenizer_config.json", tokenizer)
    for name, template in templates.items():
        if name == "tokenizer":
            write(folder / "tokenizer_config.json", tokenizer | {"chat_template": template})
        elif name.endswith(".json"):
            write(folder / name, {"chat_template": template})
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(template)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_that_knows_images_is_taken(folder: Path, name: str, tmp_path: Path) -> None:
    templates, mark = TEMPLATES[name]
    put(folder, templates)
    checkpoint = load(str(folder))
    prompt = checkpoint.chat.prompt([Image.new("RGB", (28, 28))], "where?")
    assert checkpoint.chat.decode(prompt.ids).startswith(mark)
    save(checkpoint, tmp_path / "saved")  # where every reader finds it
    found, _ = ProcessorMixin.get_processor_dict(tmp_path / "saved")
    assert found["chat_template"] == checkpoint.chat.tokenizer.chat_template == seeing(mark)
    assert load(str(tmp_path / "saved")).chat.tokenizer.chat_template == seeing(mark)


@pytest.mark.parametrize(
    ("templates", "says"),
    [
        ({}, "found no chat template; expected one that writes"),
        ({"tokenizer": BLIND}, "found its tokenizer's template, which fails on one"),
        (
            {"tokenizer": "{{ messages }}", "chat_template.jinja": "{% if"},
            "processor's template, which fails .* and its tokenizer's template, which fails on one",
        ),
        (
            {"chat_template.jinja": "{% for m in messages %}{{ m.role }}{% endfor %}"},
            "its processor's template, which knows no images and its tokenizer's",
        ),
    ],
)
def test_without_a_template_that_knows_images(
    folder: Path, templates: Mapping[str, str], says: str
) -> None:
    put(folder, templates)
    with pytest.raises(ModelError, match=says):
        load(str(folder))


# ---- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_shared_weights_are_written_once(
    folder: Path, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    checkpoint = load(str(folder))
    model = checkpoint.model
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    save(checkpoint, tmp_path / "saved", dtype=dtype)
    state = load_file(tmp_path / "saved" / WEIGHTS)
    assert not any("lm_head" in name for name in state)
    numbers = sum(each.numel() for each in model.parameters())
    assert sum(each.numel() for each in state.values()) == numbers
    plain: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", dtype="auto")
    assert plain.lm_head.weight is plain.model.language_model.embed_tokens.weight
    assert {each.dtype for each in plain.parameters()} == {dtype or torch.float32}


def test_defaults_of_sampling_that_contradict_each_other_are_kept(
    folder: Path, tmp_path: Path
) -> None:
    """transformers reads them with a warning, and refuses to write them."""
    setting("generation_config.json", do_sample=False, temperature=0.5)(folder)
    save(load(str(folder)), tmp_path / "saved")
    assert read(tmp_path / "saved" / "generation_config.json")["temperature"] == 0.5


def test_settings_in_one_file_are_written_as_files_of_their_own(
    folder: Path, tmp_path: Path
) -> None:
    """As transformers 5 saves a whole processor; older releases know the other names alone."""
    images = read(folder / "preprocessor_config.json")
    videos = {"video_processor_type": "Qwen2VLVideoProcessor", "merge_size": 2}
    (folder / "preprocessor_config.json").unlink()
    own = {"processor_class": "Qwen2_5_VLProcessor"}
    nested = {"image_processor": images, "video_processor": videos}
    write(folder / "processor_config.json", own | nested)
    save(load(str(folder)), tmp_path / "saved")
    assert read(tmp_path / "saved" / "preprocessor_config.json") == images
    assert read(tmp_path / "saved" / "video_preprocessor_config.json") == videos
    assert read(tmp_path / "saved" / "processor_config.json") == own


# ---- a run's own files -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(world.config("sft", "steps=1"), tmp_path_factory.mktemp("run") / "run").path


STATES: Mapping[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "pickled code": lambda path: path.write_bytes(pickle.dumps(Evil())),
    "code in torch's form": lambda path: torch.save({"module": Evil()}, path),
    "a list": lambda path: torch.save([1], path),
    "no module": lambda path: torch.save({"optimizer": {}, "extra": {}}, path),
    "parts of other kinds": lambda path: torch.save(
        {"module": 1, "optimizer": {}, "extra": {}}, path
    ),
    "weights of other kinds": lambda path: torch.save(
        {"module": {"model.lm_head.weight": 1}, "optimizer": {}, "extra": {}}, path
    ),
    "weights of other shapes": lambda path: torch.save(
        {"module": {"model.lm_head.weight": torch.ones(2)}, "optimizer": {}, "extra": {}}, path
    ),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("verb", ["export", "resume"])
def test_a_broken_state_of_a_trainer_is_one_sentence(
    world: World,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    verb: str,
) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    STATES[name](run / "checkpoints/step-000001/trainer.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as found:
        if verb == "export":
            export(run, tmp_path / "out")
        else:
            train(world.config("sft", "steps=1"), run, resume=True)
    assert isinstance(found.value, RunError)
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out").exists()
