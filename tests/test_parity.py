"""Who trains, validates, evaluates and serves asks in the same ids and reads in the same way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import server
from files import read_rows
from reground.api import Grounder, Grounding
from reground.config import load as load_config
from reground.data.convert import convert
from reground.data.source import save_dataset
from reground.errors import ConfigError, DataError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import read_predictions, read_run, read_scores
from reground.grounding.answers import score
from reground.grounding.boxes import Box
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Detection, ImageRef, Sample, Target
from reground.model.chat import Prompt
from reground.model.load import Checkpoint, answering_of, load, save
from reground.model.prompting import Prompter
from reground.protocols.calls import CALL, CALL_END
from reground.protocols.choice import Answering, Protocols
from reground.rollout.endpoint import Endpoint
from reground.runs import RunDir
from reground.tinyworld import models as tiny
from reground.training.run import train
from reground.training.settings import TrainConfig
from scripted import ScriptedPolicy
from server import Response, says, serving

BOXES = '[{"bbox_2d": [110, 190, 480, 990]}]'
CALLING = f"<think>left.</think>\n{CALL}"
FINAL = f"<rethink>it is right.</rethink>\n<answer>{BOXES}</answer>"
ZOOM = "<function>\nzoom_in(0, 0, 500, 1000)\n</function>"
CUP = "the cup"


@dataclass(frozen=True)
class Case:
    """A protocol, the turns that a policy says under it, and the tools of its training."""

    protocol: ProtocolName
    turns: Sequence[str]
    tools: str = ""
    sees_box: bool = False


CASES = {
    "direct": Case("direct", [BOXES]),
    "think": Case("think", [f"<think>left.</think><answer>{BOXES}</answer>"]),
    "piter": Case("piter", [BOXES], sees_box=True),
    "one call": Case("think_rethink", [CALLING, FINAL], "specs: [precomputed]", sees_box=True),
    "two calls": Case(
        "think_rethink", [CALLING, CALL, FINAL], "specs: [precomputed], max_calls: 2", sees_box=True
    ),
    "zoom": Case("direct", [ZOOM, BOXES], "zoom: true"),
    "zoom and call": Case(
        "think_rethink",
        [CALLING, ZOOM, FINAL],
        "specs: [precomputed], zoom: true, max_calls: 2",
        sees_box=True,
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=[*CASES])


@dataclass
class Heard:
    """What a policy was asked, and what stood there when it said its last words."""

    prompts: set[tuple[int, ...]] = field(default_factory=set)
    last: set[tuple[int, ...]] = field(default_factory=set)
    images: set[tuple[int, int]] = field(default_factory=set)


class Recorded(ScriptedPolicy):
    """Says a case's turns, and notes what it hears."""

    heard: Heard

    def __init__(self, checkpoint: Checkpoint, case: Case) -> None:
        self.__dict__["heard"] = Heard()
        super().__init__(
            checkpoint.chat,
            lambda prompt, number: case.turns[0] if number == 0 else "nothing",
            lambda text, number: case.turns[text.count("<tool>")],
        )

    def generate(self, prompts: Sequence[Prompt], **how: Any) -> Any:
        self.heard.prompts |= {prompt.ids for prompt in prompts}
        open_ones = [each for own in how.get("prefixes") or () for each in own if each is not None]
        self.heard.last = {each.ids for each in open_ones} or self.heard.last
        self.heard.images |= {(i.size.width, i.size.height) for e in open_ones for i in e.images}
        return super().generate(prompts, **how)

    def sync(self, version: int) -> None:
        self.__dict__["heard"] = Heard()  # training and validation are heard apart

    def rest(self) -> None:
        heard.append(self.heard)

    def close(self) -> None: ...


heard: list[Heard] = []


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    path = tmp_path_factory.mktemp("photo") / "cup.png"
    Image.new("RGB", (112, 112), "navy").save(path)
    ref = ImageRef(str(path), 112, 112)
    near = Detection(0, Box(11, 22, 56, 112, ref.frame))
    true = Target(0, Box(12, 22, 55, 110, ref.frame))
    return Sample("cup", (ref,), CUP, (true,), "rec", tool_results=(near,))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that writes JSON in 0-1000."""
    sides = {"hidden": 32, "layers": 1, "heads": 2, "head_dim": 16}
    vision = {"vision_hidden": 32, "vision_depth": 1, "vision_heads": 2}
    folder = tmp_path_factory.mktemp("start") / "model"
    save(tiny.make(**sides, **vision), folder)
    return folder


def trained(
    case: Case, start: Path, sample: Sample, out: Path, monkeypatch: pytest.MonkeyPatch
) -> RunDir:
    """A step of GRPO and a validation, in which a script speaks for the model."""
    heard.clear()
    data = out / "data.jsonl"
    save_dataset(data, [sample])
    monkeypatch.setattr(
        "reground.training.run._policy", lambda checkpoint, *_: Recorded(checkpoint, case)
    )
    overrides = [
        f"model={start}",
        f"protocol={case.protocol}",
        f"data=[{{mix: {{{json.dumps(str(data))}: 1}}}}]",
        f"validation={{data: {data}, limit: 1, every: 1, max_tokens: 300}}",
        f"tools={{{case.tools}}}",
        *("method=rl", "steps=1", "batch_size=1", "engine.tolerance=1000"),
        "rollout={group_size: 2, max_tokens: 300}",
        "algorithm.kl=0",
    ]
    return train(load_config(TrainConfig, None, overrides), out / "run")


def evaluated(
    case: Case, run: Path, sample: Sample, out: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Heard, float]:
    save_dataset(out / "data.jsonl", [sample])
    policies: list[Recorded] = []

    def spoken(checkpoint: Checkpoint, *_: Any, **__: Any) -> Recorded:
        policies.append(Recorded(checkpoint, case))
        return policies[0]

    asked = Question(model=str(run), data=str(out / "data.jsonl"), max_tokens=300)
    with monkeypatch.context() as only_here:
        only_here.setattr("reground.rollout.opening.TransformersPolicy", spoken)
        evaluate(out / "eval", asked)
    (found,) = read_scores(out / "eval")
    assert found.iou is not None
    return policies[0].heard, found.iou


def grounded(case: Case, run: Path, sample: Sample) -> tuple[Heard, Grounding]:
    loaded = Grounder.from_pretrained(str(run))
    policy = Recorded(loaded.prompter.checkpoint, case)
    box = sample.detections[0].box.xyxy if case.sees_box else None
    asked = replace(loaded, policy=policy)
    found = asked.ground([sample.images[0].path], CUP, tool=box and [box], max_tokens=300)
    return policy.heard, found


@every_case
def test_training_validation_evaluation_and_grounder_ask_and_read_alike(
    case: Case, start: Path, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(case, start, sample, tmp_path, monkeypatch)
    training, validation = heard[0], heard[1]
    evaluation, iou = evaluated(case, run.path, sample, tmp_path, monkeypatch)
    serving, found = grounded(case, run.path, sample)
    assert training == validation == evaluation == serving
    assert len(training.prompts) == 1 and len(training.last) == (len(case.turns) > 1)
    assert bool(training.images) is (ZOOM in case.turns)
    rows = read_rows(run.rollouts)
    best = next(row for row in rows if row["rollout"] == 0)
    metrics = json.loads(run.metrics.read_text().splitlines()[-1])
    assert iou > 0.9
    assert (best["reward/iou"], metrics["validation/mean_iou"]) == (iou, iou)
    assert score(found.answer, sample) == iou
    assert (best["reward/format"], found.answer.well_formed) == (1, True)
    made = read_run(tmp_path / "eval")
    assert (made.protocol, made.protocol_by, [*made.prompts]) == (
        case.protocol,
        "checkpoint",
        [case.protocol],
    )


def test_validation_rows_that_the_tool_does_not_know_are_refused_first(
    start: Path, sample: Sample, tmp_path: Path
) -> None:
    """Fault 10: they got ``unavailable`` in silence."""
    save_dataset(tmp_path / "data.jsonl", [sample])
    save_dataset(tmp_path / "val.jsonl", [replace(sample, id="held out", tool_results=None)])
    overrides = [
        *(f"model={start}", "method=rl", "protocol=think_rethink", "tools.specs=[precomputed]"),
        f"data=[{{mix: {{{json.dumps(str(tmp_path / 'data.jsonl'))}: 1}}}}]",
        f"validation={{data: {tmp_path / 'val.jsonl'}, limit: 1}}",
    ]
    with pytest.raises(DataError, match="sample 'held out' has no tool_results"):
        train(load_config(TrainConfig, None, overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- behind a chat server -----------------------------------------------------------------------


def says_turns(turns: Sequence[str]) -> Any:
    def respond(body: dict[str, Any], _: int) -> Response:
        said = body["messages"][1]["content"] if len(body["messages"]) > 1 else ""
        if server.question(body) == "?":  # whether it goes on within a turn
            return says("", read=1 + len(said))
        text = turns[said.count("<tool>")]
        return says(text, tokens=9, stop_reason=CALL_END if text.endswith(CALL_END) else None)

    return respond


def remembering(case: Case, start: Path, folder: Path, **how: Any) -> Path:
    known = Answering(family="qwen3_vl", protocol=case.protocol, **how)
    save(replace(load(str(start)), answering=known), folder)
    return folder


@pytest.mark.parametrize("name", ["direct", "think", "piter", "one call"])
def test_a_chat_server_gets_the_same_messages_the_one_call_and_the_same_reading(
    name: str, start: Path, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    folder = remembering(case, start, tmp_path / "model")
    here, iou = evaluated(case, folder, sample, tmp_path, monkeypatch)
    with serving(says_turns(case.turns)) as (url, bodies):
        asked = Question(
            model="m",
            data=str(tmp_path / "data.jsonl"),
            endpoint=Endpoint(url=url, model="m"),
            processor=str(folder),
            max_tokens=300,
        )
        evaluate(tmp_path / "there", asked)
    (score,) = read_scores(tmp_path / "there")
    assert score.iou == iou
    decode = load(str(folder)).chat.decode
    sent = [body for body in bodies if server.question(body) != "?"]
    ((prompt,), turns) = (here.prompts, [decode(ids) for ids in here.last])
    assert all(server.question(body) in decode(prompt) for body in sent)
    assert [body["messages"][1]["content"] for body in sent[1:]] == turns
    texts = [row.text for out in ("eval", "there") for row in read_predictions(tmp_path / out)]
    assert texts[0].removesuffix("<|im_end|>") == texts[1]


@pytest.mark.parametrize(
    ("how", "words"),
    [({"zoom": True}, r"nobody can .* \(zoom\)"), ({"max_calls": 2}, "answer 2 calls, only one")],
)
def test_what_a_chat_server_cannot_do_is_refused_first(
    how: dict[str, Any], words: str, start: Path, sample: Sample, tmp_path: Path
) -> None:
    folder = remembering(CASES["one call"], start, tmp_path / "model", **how)
    save_dataset(tmp_path / "data.jsonl", [sample])
    with serving(says_turns([FINAL])) as (url, bodies):
        asked = Question(
            model="m",
            data=str(tmp_path / "data.jsonl"),
            endpoint=Endpoint(url=url, model="m"),
            processor=str(folder),
        )
        with pytest.raises(ConfigError, match=words):
            evaluate(tmp_path / "out", asked)
    assert bodies == []


# ---- who decides --------------------------------------------------------------------------------


def test_a_flag_then_the_row_then_config_checkpoint_family(sample: Sample) -> None:
    row = replace(sample, protocol="piter")
    taught = Answering(family="univg_r1", protocol="think_rethink")
    plain = Answering(family="univg_r1")
    for protocols, of_row, of_rest, by in (
        (Protocols.of(taught, flag="direct", config="think"), "direct", "direct", "flag"),
        (Protocols.of(taught, benchmark="direct"), "piter", "direct", "benchmark"),
        (Protocols.of(taught, config="direct"), "piter", "direct", "config"),
        (Protocols.of(taught), "piter", "think_rethink", "checkpoint"),
        (Protocols.of(plain), "piter", "think", "family"),
    ):
        assert (protocols.name(row), protocols.name(sample)) == (of_row, of_rest)
        assert protocols.decided_by == by


def test_another_protocol_keeps_the_checkpoints_own_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fault 29: ``eval --model tiny_refiner --protocol direct`` asked with another prompt."""
    refiner = Protocols.of(answering_of("tiny_refiner"), flag="direct")
    assert refiner.get("direct").profile.name == "tiny"
    assert refiner.prompts_of([refiner.get("direct")])["direct"].chosen_by == "checkpoint"
    assert caplog.text == ""
    piter = Protocols.of(answering_of("tiny_refiner"), flag="piter")
    assert piter.prompts_of([piter.get("piter")])["piter"].chosen_by == "family"
    assert "remembers no prompt for the protocol piter" in caplog.text


def test_a_prompt_that_no_row_would_use_is_refused(sample: Sample) -> None:
    protocols = Protocols.of(Answering(family="univg_r1"), prompt="tiny")
    with pytest.raises(ConfigError, match="prompt tiny is for the protocol think, and every row"):
        protocols.used([replace(sample, protocol="direct")])


def test_chains_and_bare_rows_train_in_one_run_each_in_its_form(tmp_path: Path) -> None:
    """UniVG-R1's cold start: 76k chains and 14k RefCOCO rows; here six and two."""
    recipe = load_config(
        TrainConfig, Path(__file__).parents[1] / "configs/univg_r1/qwen2_vl_7b_sft.yaml"
    )
    assert [*recipe.data[0].mix.values()] == [76, 14]
    Image.new("RGB", (112, 112)).save(tmp_path / "COCO_train2014_1.png")
    chain = "<think>Left of it.</think><answer>(100,250),(500,750)</answer>"
    lead = "This is a single image grounding task with simple reference. "
    rows = [
        {"images": ["COCO_train2014_1.png"], "question": f"{lead if bare else ''}cup {n}"}
        | {"answer": "(100,250),(500,750)" if bare else chain}
        for n, bare in enumerate([False] * 3 + [True] + [False] * 3 + [True])
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    samples = list(convert("univg_r1", tmp_path / "rows.json"))
    known = Answering(family="univg_r1")
    prompter = Prompter.of(replace(tiny.make(), answering=known))
    for sample, row in zip(samples, rows, strict=True):
        prompt = prompter.prompt(sample)
        asked, (gold,) = prompter.text(prompt.ids), prompter.gold(sample, prompt)
        assert ("<think>" in asked, "simple reference" in asked) == (
            row["answer"] == chain,
            row["answer"] != chain,
        )
        assert gold.text == row["answer"]
        ids = prompter.checkpoint.chat.encode_answer(gold.text)
        assert prompter.read(ids, prompt, sample=sample).well_formed
