"""Rollouts of a real vLLM against the trainer's own: ids, log-probs, weights that follow, runs.

The shipped tiny model, in float32. Greedy answers to 24 questions by both; then the weights of the
language part, and of the vision part, are moved, and log-probs of 8 rollouts each are compared
before and after the engine gets them; last, GRPO of some steps through `reground train`, each with
a share of sampled tokens' log-probs. ``make test-vllm`` builds the environment. With ``--url``
vLLM is a server there, started as docs/scale.md says with the model `reground export tiny`.

    python benchmarks/engine.py --out docs/results/vllm.json
    python benchmarks/engine.py --url http://127.0.0.1:8000 --out docs/results/vllm_server.json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from common import measured, parser, publish

from reground.data.source import open_dataset
from reground.io import read_jsonl
from reground.model.chat import Prompt
from reground.model.load import Checkpoint, load
from reground.model.prompting import Prompter
from reground.rollout.engine.in_process import InProcess
from reground.rollout.engine.policy import EnginePolicy
from reground.rollout.engine.server import Server
from reground.rollout.policy import Completion, Policy, Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from reground.training.agreement import gaps

TASKS, EACH, N, STEPS = ("diff", "referring"), 12, 8, 5
GREEDY, WARM = Sampling(max_tokens=96), Sampling(temperature=0.9, max_tokens=96)
MOVED = 0.03  # of a weight's standard deviation


def main() -> None:
    """Compare answers, then log-probs after updates, then run."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--url", help="a vLLM server with the same model")
    asked = command_line.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    checkpoint = load("tiny")
    prompter = Prompter.of(checkpoint)
    drawn = [open_dataset(f"synth:{task}", seed=3, limit=EACH) for task in TASKS]
    prompts = [prompter.prompt(sample) for sample in chain(*drawn)]
    with tempfile.TemporaryDirectory() as folder:
        engine, own = _engine(checkpoint, asked.url), TransformersPolicy(checkpoint)
        result = {
            "greedy": _same(engine, own, prompts),
            "rollouts": _timed(engine, own, prompts, asked.repeats),
            "log-probs": {
                part: _followed(engine, checkpoint, prompts, part)
                for part in ("language_model", "visual")
            },
            "grpo": _run(asked.url, Path(folder)),
        }
    import vllm

    config = {"form": "server" if asked.url else "in process", "vllm": vllm.__version__}
    config |= {"prompts": len(prompts), "n": N, "steps": STEPS}
    publish(result, out=asked.out, config=config, seed=3)


def _engine(checkpoint: Checkpoint, url: str | None) -> EnginePolicy:
    if url is None:
        own = InProcess(checkpoint, max_length=1024, max_images=8, memory=0.5)
        return EnginePolicy(checkpoint, own)
    server = Server(checkpoint.chat, url, device=torch.device("cpu"), timeout_s=300)
    made = EnginePolicy(checkpoint, server)
    made.sync(1)
    return made


def _same(engine: Policy, own: Policy, prompts: Sequence[Prompt]) -> dict[str, Any]:
    groups = [each.generate(prompts, n=1, sampling=GREEDY) for each in (engine, own)]
    pairs = [(one[0], two[0]) for one, two in zip(*groups, strict=True)]
    differences = [
        abs(ours - theirs)
        for one, two in pairs
        for ours, theirs in zip(one.logprobs, two.logprobs, strict=False)
    ]
    return {
        "answers": len(pairs),
        "equal": sum(one.ids == two.ids for one, two in pairs),
        "tokens": sum(len(one.ids) for one, _ in pairs),
        "largest log-prob gap": max(differences),
    }


def _timed(
    engine: Policy, own: Policy, prompts: Sequence[Prompt], repeats: int
) -> dict[str, float]:
    """Sampled tokens a second, medians of turns."""
    rates: dict[str, list[float]] = {"vllm": [], "transformers": []}
    for turn in range(repeats):
        for name, policy in zip(rates, (engine, own), strict=True):
            groups: list[Sequence[Completion]] = []

            def sample(
                policy: Policy = policy, groups: list[Any] = groups, turn: int = turn
            ) -> None:
                keys = range(turn * 1000, turn * 1000 + len(prompts))
                groups.extend(policy.generate(prompts, n=N, sampling=WARM, keys=list(keys)))

            seconds = measured(sample).wall
            rates[name].append(sum(len(c.ids) for group in groups for c in group) / seconds)
    return {f"{name} tokens/s": round(statistics.median(own), 1) for name, own in rates.items()}


def _followed(
    engine: EnginePolicy, checkpoint: Checkpoint, prompts: Sequence[Prompt], part: str
) -> dict[str, Any]:
    """How far the engine's log-probs are from the trainer's, with old weights and with new ones."""
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in checkpoint.model.named_parameters():
            if part in name:
                value.add_(torch.randn_like(value) * value.std().nan_to_num() * MOVED)
    sample: Callable[[], Any] = lambda: engine.generate(prompts, n=N, sampling=WARM)  # noqa: E731
    stale = _gaps(checkpoint, prompts, sample())
    engine.sync(engine.version + 1)
    found = {"old weights": stale, "new weights": _gaps(checkpoint, prompts, sample())}
    checkpoint.model.load_state_dict(before)
    engine.sync(engine.version + 1)
    return found


def _gaps(
    checkpoint: Checkpoint, prompts: Sequence[Prompt], sampled: Sequence[Sequence[Completion]]
) -> dict[str, float]:
    every = gaps(checkpoint, prompts, sampled, temperature=WARM.temperature)
    return {"tokens": len(every), "mean": float(every.mean()), "largest": float(every.max())}


def _run(url: str | None, folder: Path) -> dict[str, Any]:
    config = folder / "grpo.yaml"
    engine = f"server: {{url: '{url}'}}" if url else "vllm: {max_length: 1024}"
    config.write_text(
        "method: rl\nmodel: tiny\nseed: 1\n"
        f"data: [{{mix: {{'synth:diff': 1, 'synth:referring': 1}}}}]\nsteps: {STEPS}\n"
        "batch_size: 4\noptim: {lr: 1.0e-4}\nrollout: {group_size: 8, max_tokens: 96}\n"
        f"engine: {{{engine}}}\n"
    )
    command = [sys.executable, "-m", "reground", "train", str(config), "--out", str(folder / "run")]
    subprocess.run(command, check=True, stdout=sys.stderr)
    rows, times = (
        list(read_jsonl(folder / "run" / f"{name}.jsonl", dict)) for name in ("metrics", "timings")
    )
    return {
        "config": config.read_text().replace(str(folder), "FOLDER").splitlines(),
        "reward": [row["reward/total"] for row in rows],
        "mean gap": [row["rollout/logprob_gap"] for row in rows],
        "largest gap": [row["rollout/logprob_gap_max"] for row in rows],
        "seconds a step": [round(row["seconds/batch"] + row["seconds/update"], 2) for row in times],
    }


if __name__ == "__main__":
    main()
