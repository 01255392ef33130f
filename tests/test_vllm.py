"""The real vLLM engine beside the trainer; `make test-vllm` builds the environment it needs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else two workers want a NUMA node each
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

import httpx2
import torch
from torch import Tensor

from reground.data.source import open_dataset
from reground.errors import EngineError
from reground.model.chat import Prompt
from reground.model.load import Checkpoint, load, save
from reground.model.prompting import Prompter
from reground.rollout.engine.in_process import InProcess
from reground.rollout.engine.policy import UNKNOWN, EnginePolicy
from reground.rollout.engine.server import START, Server
from reground.rollout.engine.weights import Weights
from reground.rollout.policy import Completion, Prefix, Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from reground.tinyworld import models as tiny
from reground.training.agreement import gaps

GREEDY = Sampling(max_tokens=64)
STOPPED = Sampling(max_tokens=64, stop=("</think>",))
WARM = Sampling(temperature=0.9, max_tokens=64)
Groups = Sequence[tuple[Completion, ...]]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load("tiny")


@pytest.fixture(scope="module")
def server(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the checkpoint's weights."""
    with serving(checkpoint, tmp_path_factory.mktemp("served")) as url:
        yield url


@contextmanager
def serving(checkpoint: Checkpoint, folder: Path, *more: str) -> Iterator[str]:
    """A server, started as people start it."""
    save(checkpoint, folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    images = '{"image": 8, "video": 0}'
    options = f"--port {port} --dtype float32 --enforce-eager --max-model-len 1024"
    options += " --no-enable-chunked-prefill"  # with seeds, on a CPU, it ends vLLM 0.32
    # The CPU build has another name, for which `vllm serve` looks in vain: this is what it calls.
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    words += [*START.partition("MODEL")[2].split(), *options.split(), *more]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(
            [sys.executable, *words, "--limit-mm-per-prompt", images],
            env=os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            stdout=log,
            stderr=log,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for(url, running, folder / "log")
            yield url
        finally:
            running.terminate()
            running.wait(60)


def _wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert running.poll() is None, log.read_text()[-3000:]
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/health").is_success:
                return
        time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(scope="module", params=["in process", "server"])
def engine(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> EnginePolicy:
    if request.param == "in process":
        own = InProcess(checkpoint, max_length=1024, max_images=8, memory=0.5)
        return EnginePolicy(checkpoint, own)
    url = request.getfixturevalue("server")
    return EnginePolicy(checkpoint, connected(checkpoint, url))


def connected(checkpoint: Checkpoint, url: str) -> Server:
    return Server(checkpoint.chat, url, device=torch.device("cpu"), timeout_s=300)


@pytest.fixture(scope="module")
def prompts(checkpoint: Checkpoint) -> list[Prompt]:
    prompter = Prompter.of(checkpoint)
    drawn = (open_dataset(f"synth:{task}", seed=3, limit=6) for task in ("diff", "referring"))
    return [prompter.prompt(sample) for sample in chain(*drawn)]


@pytest.fixture(scope="module")
def own(checkpoint: Checkpoint) -> TransformersPolicy:
    return TransformersPolicy(checkpoint)


def check_same(found: Groups, expected: Groups) -> None:
    for group, other in zip(found, expected, strict=True):
        for one, two in zip(group, other, strict=True):
            assert (one.ids, one.finish) == (two.ids, two.finish)
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, STOPPED], ids=["to the end", "to a stop string"])
def test_greedy_answers_equal_those_of_the_trainers_own_policy(
    engine: EnginePolicy, own: TransformersPolicy, prompts: list[Prompt], sampling: Sampling
) -> None:
    found = engine.generate(prompts, n=1, sampling=sampling)
    check_same(found, own.generate(prompts, n=1, sampling=sampling))
    assert {group[0].finish for group in found} == {"stop_string" if sampling.stop else "stop"}


def test_every_end_of_a_checkpoint_ends_an_answer(
    engine: EnginePolicy,
    own: TransformersPolicy,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (whole,), *_ = own.generate(prompts[:1], n=1, sampling=GREEDY)
    chat = own.checkpoint.chat
    monkeypatch.setattr(chat, "end_ids", chat.end_ids | {whole.ids[5]})
    expected = own.generate(prompts, n=1, sampling=GREEDY)
    assert len(expected[0][0].ids) <= 6
    check_same(engine.generate(prompts, n=1, sampling=GREEDY), expected)


@pytest.mark.parametrize("with_image", [False, True], ids=["text", "an image"])
def test_second_turns_equal_those_of_the_trainers_own_policy(
    engine: EnginePolicy, own: TransformersPolicy, prompts: list[Prompt], with_image: bool
) -> None:
    chat = own.checkpoint.chat
    thoughts = own.generate(prompts, n=1, sampling=STOPPED)

    def behind(prompt: Prompt, thought: Completion) -> Prefix:
        told = chat.image_ids(prompt.images[0]) if with_image else chat.encode("<answer>(1")
        return Prefix((*thought.ids, *told), prompt.images[:1] if with_image else ())

    prefixes = [
        [behind(prompt, group[0]) if place % 2 else None]
        for place, (prompt, group) in enumerate(zip(prompts, thoughts, strict=True))
    ]
    check_same(
        engine.generate(prompts, n=1, sampling=GREEDY, prefixes=prefixes),
        own.generate(prompts, n=1, sampling=GREEDY, prefixes=prefixes),
    )


def test_completions_do_not_depend_on_what_is_sampled_beside_them(
    engine: EnginePolicy, prompts: list[Prompt]
) -> None:
    keys = list(range(7, 7 + len(prompts)))
    first = engine.generate(prompts, n=4, sampling=WARM, keys=keys)
    again = engine.generate(prompts[::-1], n=4, sampling=WARM, keys=keys[::-1])
    check_same(first, again[::-1])
    assert len({completion.ids for completion in first[0]}) > 1


@pytest.fixture
def changed(checkpoint: Checkpoint, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a part whose weights are others for the time of a test."""
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    change(checkpoint, request.param)
    yield request.param
    checkpoint.model.load_state_dict(before)


def change(checkpoint: Checkpoint, part: str, *, by: float = 0.03) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in checkpoint.model.named_parameters():
            if part in name:
                value.add_(torch.randn_like(value) * value.std().nan_to_num() * by)


def gap(checkpoint: Checkpoint, prompts: Sequence[Prompt], sampled: Groups) -> float:
    """The largest difference of log-probs between engine and trainer."""
    return float(gaps(checkpoint, prompts, sampled, temperature=WARM.temperature).max())


@pytest.mark.parametrize("changed", ["language_model", "visual"], indirect=True)
def test_the_engine_follows_the_trainers_weights(
    engine: EnginePolicy, checkpoint: Checkpoint, prompts: list[Prompt], changed: str
) -> None:
    stale = gap(checkpoint, prompts, engine.generate(prompts, n=4, sampling=WARM))
    engine.sync(engine.version + 1)
    sampled = engine.generate(prompts, n=4, sampling=WARM)
    assert gap(checkpoint, prompts, sampled) < 1e-3 < 0.1 < stale
    assert {each.policy_version for group in sampled for each in group} == {engine.version}


@dataclass(frozen=True, slots=True)
class Given:
    """Weights that are in a dictionary."""

    state: Mapping[str, Tensor]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.state.items())

    def described(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.state.items())


@pytest.mark.parametrize(
    ("lost", "complaint"),
    [("visual.merger", "got no weights"), ("visual.blocks.0.attn.qkv.weight", "got no weights")],
)
def test_every_parameter_is_written_or_the_run_stops(
    engine: EnginePolicy, checkpoint: Checkpoint, lost: str, complaint: str
) -> None:
    state = dict(Weights(checkpoint.model))
    kept = {name: value for name, value in state.items() if lost not in name}
    assert len(kept) < len(state)
    with pytest.raises(EngineError, match=complaint):
        engine.engine.write(Given(kept), new_vision=False)
    engine.sync(engine.version + 1)


@pytest.mark.parametrize("form", ["in process", "server", "in process of two ranks"])
def test_a_run_of_grpo_samples_with_the_engine(
    tmp_path: Path, request: pytest.FixtureRequest, form: str
) -> None:
    engine = "vllm: {max_length: 1024}"
    if form == "server":
        engine = f"server: {{url: '{request.getfixturevalue('server')}'}}"
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"] if "two" in form else []
    config = tmp_path / "grpo.yaml"
    config.write_text(
        "method: rl\nmodel: tiny\ndata: [{mix: {'synth:diff': 1}}]\nsteps: 3\nbatch_size: 2\n"
        "optim: {lr: 1.0e-3}\nrollout: {group_size: 4, max_tokens: 96}\n"
        f"engine: {{{engine}}}\n"
        f"sharding: {'full' if launcher else 'none'}\n"
    )
    command = [
        sys.executable,
        *launcher,
        "-m",
        "reground",
        "train",
        str(config),
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["rollout/logprob_gap_max"] for line in lines]
    assert len(logged) == 3
    assert all(value < 1e-3 for value in logged)


def test_an_evaluation_reads_the_same_answers_from_the_engine(tmp_path: Path) -> None:
    def texts(engine: str) -> list[str]:
        folder = tmp_path / engine
        command = ["eval", "--model", "tiny", "--data", "synth:referring@1-2", "--limit", "12"]
        subprocess.run(
            [sys.executable, "-m", "reground", *command, "--engine", engine, "--out", folder],
            check=True,
        )
        assert json.loads((folder / "run.json").read_text())["engine"] == engine
        rows = (folder / "predictions.jsonl").read_text().splitlines()
        return [json.loads(row)["text"] for row in rows]

    assert texts("vllm") == texts("transformers")


def test_a_server_takes_right_weights_after_wrong_ones_and_another_run_after_one(
    server: str, checkpoint: Checkpoint, prompts: list[Prompt]
) -> None:
    first = connected(checkpoint, server)
    state = dict(Weights(checkpoint.model))
    name = next(name for name in state if name.endswith("q_proj.weight"))
    for wrong in ({"model.none": torch.zeros(2, 3)}, {name: state[name].T[:-1].contiguous()}):
        with pytest.raises(EngineError, match=f"^{server}: .*; expected the weights of its own"):
            first.write(Given(state | wrong), new_vision=True)
    engine = EnginePolicy(checkpoint, first, UNKNOWN)
    engine.sync(1)
    assert gap(checkpoint, prompts, engine.generate(prompts, n=1, sampling=WARM)) < 1e-3
    second = connected(checkpoint, server)
    second.write(Given(state), new_vision=True)
    with pytest.raises(EngineError, match="another run has connected"):
        first.write(Given(state), new_vision=True)
    engine = EnginePolicy(checkpoint, second, UNKNOWN)
    engine.sync(1)
    assert gap(checkpoint, prompts, engine.generate(prompts, n=1, sampling=WARM)) < 1e-3


def test_a_trainer_that_is_killed_as_it_sends_leaves_a_server_for_the_next(
    server: str, checkpoint: Checkpoint, prompts: list[Prompt]
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, server], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    engine = EnginePolicy(checkpoint, connected(checkpoint, server), UNKNOWN)
    engine.sync(1)
    assert gap(checkpoint, prompts, engine.generate(prompts, n=1, sampling=WARM)) < 1e-3


KILLED = """
import os, signal, sys, torch
from reground.model.load import load
from reground.rollout.engine.server import Server
from reground.rollout.engine.weights import Weights

class Deadly(Weights):
    def __iter__(self):
        for number, pair in enumerate(super().__iter__()):
            if number == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair

checkpoint = load("tiny")
server = Server(checkpoint.chat, sys.argv[1], device=torch.device("cpu"), timeout_s=300)
server.write(Deadly(checkpoint.model), new_vision=True)
"""


def test_two_workers_share_what_they_are_sent(tmp_path: Path) -> None:
    checkpoint = tiny.make(heads=2, head_dim=32)  # one of keys and values, for both
    (sample,) = open_dataset("synth:diff", seed=3, limit=1)
    prompts = [Prompter.of(checkpoint).prompt(sample)]
    sampling = Sampling(temperature=0.9, max_tokens=8)
    with serving(checkpoint, tmp_path, "--tensor-parallel-size", "2") as url:
        engine = EnginePolicy(checkpoint, connected(checkpoint, url))
        change(checkpoint, "", by=0.3)
        stale = gap(checkpoint, prompts, engine.generate(prompts, n=4, sampling=sampling))
        every = Weights(checkpoint.model)
        kept = {name: value for name, value in every if "visual.merger" not in name}
        with pytest.raises(EngineError, match="got no weights"):
            engine.engine.write(Given(kept), new_vision=True)
        engine.sync(1)
        sampled = engine.generate(prompts, n=4, sampling=sampling)
        assert gap(checkpoint, prompts, sampled) < 1e-3 < 0.01 < stale
