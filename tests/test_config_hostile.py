"""Configs that nobody should have written: each is a sentence with file and line, no traceback."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reground.cli import app
from reground.config import load
from reground.errors import UserError
from reground.teacher.settings import TeachConfig
from reground.training.settings import TrainConfig

GOOD = "method: sft\ndata: [{mix: {a.jsonl: 1.0}}]\n"  # what is added to it is line 3
POWERS = "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))

# What the file holds, and the message after its name.
TEXTS: list[tuple[str | bytes, str]] = [
    # depth, aliases, tags
    ("a: " + "[" * 10_000, ":1: not valid YAML: nested too deeply"),
    ("a: " + "[" * 500 + "]" * 500, ":1: not valid YAML: nested too deeply"),
    ("{a: " * 3000 + "1" + "}" * 3000, ":1: not valid YAML: nested too deeply"),
    ("".join(" " * n + "a:\n" for n in range(900)), ":60: not valid YAML: nested too deeply"),
    ("- " * 20_000 + "a", ":1: not valid YAML: nested too deeply"),
    (f"{GOOD}model_settings: " + "{a: " * 200 + "1" + "}" * 200, ":3: not valid YAML: nested"),
    ("a: &a [x, x]\n" + POWERS, ":2: not valid YAML: found the alias *a"),
    ("a: &a [*a]\n", ":1: not valid YAML: found the alias *a"),
    ("a: &a {x: 1}\nb:\n  <<: *a\n", ":3: not valid YAML: found the alias *a"),
    ("a: *nope\n", ":1: not valid YAML: found the alias *nope"),
    ("a: !!python/object/apply:os.system ['true']\n", ":1: not valid YAML: found the tag"),
    ("a: !!python/name:os.system\n", ":1: not valid YAML: found the tag"),
    (f"{GOOD}seed: !mine 3\n", ":3: not valid YAML: found the tag !mine"),
    (f"{GOOD}seed: !!int x\n", ":3: not valid YAML: found the tag"),
    (f"{GOOD}seed: !!bool maybe\n", ":3: not valid YAML: found the tag"),
    (f"{GOOD}out: !!timestamp hello\n", ":3: not valid YAML: found the tag"),
    (f"{GOOD}optim: !!map 3\n", ":3: not valid YAML: found the tag"),
    (f"{GOOD}out: !!binary '????'\n", ":3: not valid YAML: found the tag"),
    # keys
    (f"{GOOD}seed: 1\nseed: 2\n", ":4: not valid YAML: key 'seed' stands twice"),
    (f"{GOOD}seed: 1\n'seed': 2\n", ":4: not valid YAML: key 'seed' stands twice"),
    (f"{GOOD}optim: {{lr: 1, lr: 2}}\n", ":3: not valid YAML: key 'lr' stands twice"),
    ("? [a, b]\n: 1\n", ":1: not valid YAML: found unhashable key"),
    (f"{GOOD}3: 4\n", ":3: 3: unknown key; "),
    (f"{GOOD}~: 4\n", ": null: unknown key; "),
    (f"{GOOD}.nan: 4\n", ": NaN: unknown key; "),
    (f"{GOOD}<<: {{seed: 3}}\n", ":3: <<: unknown key; "),
    (f"{GOOD}stepz: 3\n", ":3: stepz: unknown key; did you mean 'steps'?"),
    (f"{GOOD}Seed: 3\n", ":3: Seed: unknown key; did you mean 'seed'?"),
    (f"{GOOD}optim:\n  lrr: 3\n", ":4: optim.lrr: unknown key; did you mean 'optim.lr'?"),
    (f"{GOOD}lr: 3\n", ":3: lr: unknown key; did you mean 'optim.lr'?"),
    (f'{GOOD}"a\\u001b[31m": 3\n', ":3: a\\x1b[31m: unknown key; "),
    (f"{GOOD}? {'k' * 90_000}\n: 3\n", f":3: {'k' * 90}"),
    (f"{GOOD}{'k' * 90_000}: 3\n", ":3: not valid YAML: could not find expected ':'"),
    # numbers
    (f"{GOOD}seed: {'9' * 5000}\n", ":3: not valid YAML: found 9999"),
    (f"{GOOD}steps: {'9' * 400}\n", ":3: steps: found 9999"),
    (f"{GOOD}steps: -1\n", ":3: steps: found -1, expected at least 1"),
    (f"{GOOD}steps: 3.0\n", ":3: steps: found 3.0, expected an integer"),
    (f"{GOOD}steps: '3'\n", ':3: steps: found "3", expected an integer'),
    (f"{GOOD}steps: 0x1F\n", ':3: steps: found "0x1F", expected an integer'),
    (f"{GOOD}steps: 1:30\n", ':3: steps: found "1:30", expected an integer'),
    (f"{GOOD}steps: .nan\n", ":3: steps: found NaN, expected an integer"),
    (f"{GOOD}optim:\n  lr: .nan\n", ":4: optim.lr: found NaN, expected a finite number"),
    (f"{GOOD}optim: {{lr: 1e999}}\n", ":3: optim.lr: found Infinity, expected a finite number"),
    ("method: sft\ndata:\n- mix: {a: .nan}\n", ":3: data.0.mix.a: found NaN"),
    # wrong types
    (f"{GOOD}steps:\n", ":3: steps: found null, expected an integer"),
    (f"{GOOD}steps: true\n", ":3: steps: found true, expected an integer"),
    (f"{GOOD}steps: [3]\n", ":3: steps: found [3], expected an integer"),
    (f"{GOOD}optim: 3\n", ":3: optim: found 3, expected a section"),
    (f"{GOOD}rewards: [null]\n", ":3: rewards.0: found null, expected a section with a type"),
    (f"{GOOD}rewards: [iou]\n", ":3: rewards.0: found \"iou\", expected a section with a type"),
    (f"{GOOD}algorithm: grpo\n", ":3: algorithm: found \"grpo\", expected a section with a type"),
    (f"{GOOD}rewards: [{{type: [iou]}}]\n", ":3: rewards.0.type: unknown \"['iou']\"; did you"),
    (f"{GOOD}steps: {'k' * 10_000}\n", ':3: steps: found "kkkk'),
    ("method: sft\ndata: a.jsonl\n", ":2: data: found \"a.jsonl\", expected a list, as [a.jsonl]"),
    ("method: [sft]\ndata: [{mix: {a: 1}}]\n", ":1: method: found [\"sft\"], expected a string"),
    # no mapping, no YAML, no text
    ("", ": method: missing; put it in the config file"),
    ("hello\n", ": found \"hello\", expected a mapping"),
    ("- a\n", ": found [\"a\"], expected a mapping"),
    ("a:\n\tb: 1\n", ":2: not valid YAML: found character '\\t'"),
    ("a: [1, 2\n", ":2: not valid YAML: expected ',' or ']'"),
    (f"{GOOD}---\n{GOOD}", ":3: not valid YAML: but found another document"),
    ("%YAML 9.9\n---\na: 1\n", ":1: not valid YAML: found incompatible YAML document"),
    ("a: @x\n", ":1: not valid YAML: found character '@'"),
    ('a: "\\q"\n', ":1: not valid YAML: found unknown escape character 'q'"),
    (f"{GOOD}a: \x01\n", ":3: not valid YAML: found the character U+0001"),
    (f"{GOOD}a: \x00\n", ":3: not valid YAML: found the character U+0000"),
    (f'{GOOD}out: "\\ud800"\n', ":3: not valid YAML: found half of a surrogate pair"),
    (GOOD.encode("utf-16"), ":1: not a text in UTF-8"),
    (GOOD.encode() + b"out: caf\xe9\n", ":3: not a text in UTF-8"),
    (b"\x1f\x8b\x08\x00rest", ":1: not a text in UTF-8"),
    # extends
    (f"{GOOD}extends: [a]\n", ": extends: found [\"a\"], expected the path of one file"),
    (f"{GOOD}extends: bad.yaml\n", ": `extends` goes in a circle"),
]  # fmt: skip


def bad(folder: Path, content: str | bytes) -> Path:
    path = folder / "bad.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def said(path: Path, schema: Any = TrainConfig) -> str:
    with pytest.raises(UserError) as caught:
        load(schema, path)
    return str(caught.value)


def is_readable(text: str) -> bool:
    return all(each.isprintable() and len(each) < 700 for each in text.splitlines())


@pytest.mark.parametrize(("content", "message"), TEXTS)
def test_a_bad_config_is_a_sentence(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = bad(tmp_path, content)
    text = said(path)
    assert text.startswith(f"{path}{message}") and is_readable(text)


@pytest.mark.parametrize(("content", "message"), TEXTS[:30:3] + TEXTS[-12:])
@pytest.mark.parametrize("verb", [("train",), ("headroom",), ("teach", "ask")])
def test_every_verb_says_it(
    tmp_path: Path, verb: tuple[str, ...], content: str | bytes, message: str
) -> None:
    done = CliRunner().invoke(app, [*verb, str(bad(tmp_path, content))])
    assert isinstance(done.exception, UserError) and "bad.yaml" in str(done.exception)
    assert is_readable(str(done.exception))


PATHS = [
    (lambda folder: folder, "found a folder; expected a YAML file"),
    (lambda folder: folder / "fifo", "found no regular file; expected a YAML file"),
    (lambda folder: Path("/dev/zero"), "found no regular file; expected a YAML file"),
    (lambda folder: folder / "loop", "cannot read this config: Too many levels of symbolic links"),
    (lambda folder: folder / "none", "cannot read this config: No such file"),
    (lambda folder: folder / "file" / "below", "cannot read this config: Not a directory"),
    (lambda folder: Path("x" * 5000), "cannot read this config: File name too long"),
    (lambda folder: Path("x/" * 2500 + "y"), "cannot read this config: File name too long"),
    (lambda folder: Path("a\0b"), "cannot read this config: embedded null byte"),
]


@pytest.mark.parametrize(("where", "message"), PATHS)
@pytest.mark.parametrize("by", ["itself", "extends"])
def test_what_is_no_file_is_a_sentence(tmp_path: Path, where: Any, message: str, by: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    path = where(tmp_path)
    if by == "extends":
        spelt = str(path).replace("\0", "\\0")
        path = bad(tmp_path, f'{GOOD}extends: "{spelt}"\n')
        message = message.split("; ")[0].split(":")[0]
    text = said(path)
    assert message in text and "expected a YAML file" in text and is_readable(text)
    assert ("extends" in text) == (by == "extends")


@pytest.mark.parametrize(
    "override",
    ["", "=", "a", "=3", ".=3", "a..b=1", "optim.lr=[", "optim.lr=*x", "steps=.nan", "steps=1e3",
     "data.9.mix=1", "data.0.mix.a=-1", "optim=3", f"seed={'9' * 5000}", f"{'x' * 5000}=1",
     f"{'a.' * 3000}b=1", "extends=a.yaml", "steps=\x1b[31m", "steps=\udcff", "seed=!!int x"],
)  # fmt: skip
def test_a_bad_override_is_a_sentence(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError) as caught:
        load(TrainConfig, bad(tmp_path, GOOD), [override])
    text = str(caught.value)
    assert is_readable(text) and "\n" not in text and "bad.yaml" not in text


WRONG: list[Any] = [None, True, -1, 3, 2.5, "x", [], [[]], {}, {"x": [1]}, float("nan"), 10**400]


@pytest.mark.parametrize("schema", [TrainConfig, TeachConfig])
def test_any_type_at_any_key_is_taken_or_a_sentence(tmp_path: Path, schema: Any) -> None:
    for key in schema.__dataclass_fields__:
        for value in WRONG:
            path = bad(tmp_path, f"{key}: {json.dumps(value).replace('NaN', '.nan')}\n")
            try:
                load(schema, path)
            except UserError as error:
                assert is_readable(str(error)) and str(error).startswith(str(path))
