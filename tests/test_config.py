from __future__ import annotations

import math
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reground.config import config, differing_keys, dump, load
from reground.errors import ConfigError


class Phi(StrEnum):
    EXP = "exp"
    NONE = "none"


@config
class Optim:
    lr: float = 1e-5
    warmup: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)


@config
class Voc:
    format: Literal["voc"]
    split: str = "train"


@config
class Synth:
    format: Literal["synth"]
    task: str = "referring"
    objects: int = 3


@config
class Stage:
    steps: int
    lr: float | None = None


@config
class Train:
    seed: int = 0
    name: str = "run"
    out: Path = Path("runs/run")
    phi: Phi = Phi.EXP
    resume: bool = False
    batch: int | Literal["auto"] = "auto"
    optim: Optim = Optim()
    source: Voc | Synth | None = None
    stages: tuple[Stage, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"found {self.seed}, expected zero or more")


def write(folder: Path, text: str, name: str = "train.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problem(overrides: list[str], path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(Train, path, overrides)
    return str(caught.value)


def test_defaults_need_no_file() -> None:
    assert load(Train) == Train()


def test_overrides_win_over_the_file_and_the_file_over_its_base(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1\noptim: {lr: 1e-3, warmup: 0.1}\nname: base", "bases/base.yaml")
    path = write(tmp_path, "extends: bases/base.yaml\nname: own\noptim: {lr: 1e-4}")
    loaded = load(Train, path, ["optim.lr=1e-6"])
    assert loaded == Train(seed=1, name="own", optim=Optim(lr=1e-6, warmup=0.1))


def test_extends_is_relative_to_the_file_that_says_it(tmp_path: Path) -> None:
    write(tmp_path, "seed: 7", "a/root.yaml")
    write(tmp_path, "extends: root.yaml\nname: middle", "a/middle.yaml")
    path = write(tmp_path, "extends: ../a/middle.yaml", "b/leaf.yaml")
    assert load(Train, path) == Train(seed=7, name="middle")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr=1e-6", Train(optim=Optim(lr=1e-6))),
        ("optim.lr=3", Train(optim=Optim(lr=3.0))),
        ("optim.lr=.5", Train(optim=Optim(lr=0.5))),
        ("optim.lr=.inf", Train(optim=Optim(lr=math.inf))),
        ("optim={lr: 2E+1}", Train(optim=Optim(lr=20.0))),
        ("seed=10_000", Train(seed=10_000)),
        ("name=no", Train(name="no")),
        ("name=1:30", Train(name="1:30")),
        ("name=2024-01-01", Train(name="2024-01-01")),
        ("name='7'", Train(name="7")),
        ("name=a=b", Train(name="a=b")),
        ("resume=true", Train(resume=True)),
        ("phi=none", Train(phi=Phi.NONE)),
        ("batch=8", Train(batch=8)),
        ("out=some/where", Train(out=Path("some/where"))),
        ("source={format: synth, objects: 5}", Train(source=Synth(format="synth", objects=5))),
        ("source=null", Train()),
        ("stages=[{steps: 3}]", Train(stages=(Stage(steps=3),))),
        ("weights.iou=0.9", Train(weights={"iou": 0.9})),
    ],
)
def test_override_values_are_yaml(override: str, expected: Train) -> None:
    assert load(Train, overrides=[override]) == expected


def test_overrides_reach_into_lists_and_merge_mappings() -> None:
    overrides = ["stages=[{steps: 1}, {steps: 2}]", "stages.1.lr=1e-3", "stages.1={steps: 9}"]
    assert load(Train, overrides=overrides).stages == (Stage(steps=1), Stage(steps=9, lr=1e-3))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optm.lr=1", "optm: unknown key; did you mean 'optim'?"),
        ("optim.lrs=1", "optim.lrs: unknown key; did you mean 'optim.lr'?"),
        ("lr=1", "lr: unknown key; did you mean 'optim.lr'?"),
        ("warmpu=1", "warmpu: unknown key; did you mean 'optim.warmup'?"),
        (
            "optim.zzz=1",
            "optim.zzz: unknown key; expected one of betas, lr, warmup",
        ),
        (
            "stages=[{steps: 1}, {steps: 2, lrr: 1}]",
            "stages.1.lrr: unknown key; did you mean 'stages.1.lr'?",
        ),
        (
            "source={format: synth, objcts: 2}",
            "source.objcts: unknown key; did you mean 'source.objects'?",
        ),
        ("seed=x", 'seed: found "x", expected an integer'),
        ("seed='3'", 'seed: found "3", expected an integer'),
        ("seed=1.5", "seed: found 1.5, expected an integer"),
        ("seed=true", "seed: found true, expected an integer"),
        ("seed=", "seed: found null, expected an integer"),
        ("seed=010", 'seed: found "010", expected an integer'),
        ("seed=-1", "found -1, expected zero or more"),
        ("resume=yes", 'resume: found "yes", expected true or false'),
        (
            "name=3",
            "name: found 3, expected a string (in quotes where it looks like something else)",
        ),
        ("phi=log", "phi: found \"log\", expected 'exp' or 'none'"),
        ("batch=all", "batch: found \"all\", expected an integer or 'auto'"),
        ("optim=3", "optim: found 3, expected a section of `key: value` lines"),
        ("optim.lr.x=3", 'optim.lr: found {"x": 3}, expected a number'),
        ("stages=3", "stages: found 3, expected a list"),
        ("stages=x", 'stages: found "x", expected a list, as [x]'),
        ("stages=[{}]", "stages.0.steps: missing; put it in the config file or give "),
        ("source=voc", 'source: found "voc", expected a section of `key: value` lines'),
        ("source={format: synth, objects: x}", 'source.objects: found "x", expected an integer'),
        ("weights={iou: high}", 'weights.iou: found "high", expected a number'),
        ("optim.betas=[1]", "optim.betas.1: missing; put it"),
        ("seed", "override 'seed': expected key=value, such as optim.lr=1e-5"),
        ("=3", "override '=3': expected key=value"),
        ("optim..lr=3", "override 'optim..lr=3': expected key=value"),
        ("seed=[1", "override 'seed=[1':1: not valid YAML: "),
        ("name=!!set {a}", "found the tag tag:yaml.org,2002:set, expected a plain value"),
        ("weights={? [a] : 1}", "not valid YAML: found unhashable key"),
        ("weights={iou: 1, iou: 2}", "not valid YAML: key 'iou' stands twice"),
    ],
)
def test_one_line_says_what_is_wrong(override: str, message: str) -> None:
    text = problem([override])
    assert message in text
    assert "\n" not in text


def test_every_problem_has_its_line() -> None:
    lines = problem(["seed=x", "optim.lr=fast", "optin=1"]).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["seed", "optim.lr", "optin"]


def test_a_long_value_is_shortened_in_the_message() -> None:
    assert len(problem([f"seed={'x' * 5000}"])) < 120


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nname: [a\n", "train.yaml:3: not valid YAML: "),
        ("seed: 1\n\tname: a", "train.yaml:2: not valid YAML: "),
        ("seed: 1\nseed: 2", "train.yaml:2: not valid YAML: key 'seed' stands twice"),
        ("- 1", "train.yaml: found [1], expected a mapping"),
        ("extends: nowhere.yaml", "nowhere.yaml: cannot read this config, which "),
        ("extends: [a, b]", 'extends: found ["a", "b"], expected the path of one file'),
        ("extends: train.yaml", "goes in a circle (train.yaml -> train.yaml)"),
        ("a: !!python/object:os.system {}", "train.yaml:1: not valid YAML: found the tag"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message in problem([], write(tmp_path, text))


def test_a_circle_over_two_files_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "extends: train.yaml", "other.yaml")
    path = write(tmp_path, "extends: other.yaml")
    assert "goes in a circle (train.yaml -> other.yaml -> train.yaml)" in problem([], path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    text = problem([], tmp_path / "none.yaml")
    assert "none.yaml: cannot read this config: No such file or directory" in text


def test_an_empty_file_is_an_empty_config(tmp_path: Path) -> None:
    assert load(Train, write(tmp_path, "# nothing yet\n")) == Train()


def test_a_dumped_config_is_complete() -> None:
    assert dump(Train()).splitlines()[:3] == ["seed: 0", "name: run", "out: runs/run"]


def test_sections_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Optim().lr = 2.0  # type: ignore[misc]


NUMBERS = st.floats(allow_nan=False)
TRAINS = st.builds(
    Train,
    seed=st.integers(0, 2**62),
    # YAML cannot hold control characters and lone surrogates in plain form; names never do.
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
    | st.sampled_from(["1e-6", "no", "null", "~", "0x1", "1_0", "-", "1:30", ".inf", "<<", "="]),
    phi=st.sampled_from(Phi),
    batch=st.integers(1, 64) | st.just("auto"),
    optim=st.builds(Optim, lr=NUMBERS, betas=st.tuples(NUMBERS, NUMBERS)),
    source=st.none() | st.builds(Synth, format=st.just("synth"), objects=st.integers()),
    stages=st.lists(st.builds(Stage, steps=st.integers()), max_size=2).map(tuple),
    weights=st.dictionaries(st.text("abc01e-.", min_size=1), NUMBERS, max_size=2),
)


@settings(max_examples=50)
@given(TRAINS)
def test_dump_and_load_are_inverse(tmp_path_factory: pytest.TempPathFactory, value: Train) -> None:
    path = write(tmp_path_factory.getbasetemp(), dump(value), "round_trip.yaml")
    assert load(Train, path) == value
    assert differing_keys(dump(value), dump(load(Train, path))) == []


def test_differing_keys_names_old_and_new() -> None:
    old = Train(stages=(Stage(steps=1),), weights={"iou": 1.0})
    new = Train(optim=Optim(lr=1e-6), stages=(Stage(steps=2),))
    assert differing_keys(dump(old), dump(new)) == [
        "optim.lr: 1e-05 -> 1e-06",
        "stages.0.steps: 1 -> 2",
        "weights.iou: 1.0 -> (absent)",
        "weights: (absent) -> {}",
    ]


def test_differing_keys_sees_a_change_behind_the_shortened_part() -> None:
    old, new = (dump(Train(name="x" * 80 + end)) for end in "ab")
    assert len(differing_keys(old, new)) == 1


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        ([], "base.yaml:3: optim.lr: found"),
        (["seed=1"], "base.yaml:3: optim.lr: found"),
        (["optim.lr=fast"], "optim.lr: found"),
        (["optim={lr: fast}"], "optim.lr: found"),
    ],
)
def test_a_key_is_named_with_the_file_that_gives_it(
    tmp_path: Path, overrides: list[str], place: str
) -> None:
    write(tmp_path, "name: a\noptim:\n  lr: slow\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\nstages: [{steps: 1}]\noptim: {warmup: 0.1}\n")
    text = problem(overrides, path)
    assert text.startswith((f"{tmp_path}/{place}", place)) and (place[0] == "b") == ("/" in text)
