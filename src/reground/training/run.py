"""From a config to a finished run: put the parts together and train."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from reground.config import differing_keys, dump
from reground.data.images import unreadable
from reground.errors import ConfigError, DataError, RunError
from reground.grounding.codecs import PixelLimits
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Sample, digest
from reground.io import append_jsonl, write_json
from reground.model.adapter import set_limits
from reground.model.load import Checkpoint, answering_of, fingerprint, load
from reground.model.parts import replica, set_training
from reground.model.prompting import Prompter
from reground.model.runtime import Runtime, place_of
from reground.model.vision import keep_features
from reground.plugins import installed
from reground.protocols.calls import Function
from reground.protocols.choice import Answering, Protocols
from reground.provenance import Provenance, provenance
from reground.rollout.engine.in_process import InProcess
from reground.rollout.engine.policy import UNKNOWN, EnginePolicy
from reground.rollout.engine.server import Server
from reground.rollout.environment import PlannedEnvironment
from reground.rollout.policy import TrainedPolicy
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.tool import Tool
from reground.rollout.transformers_policy import ReplicaPolicy, TransformersPolicy
from reground.runs import RunDir, room_in, start
from reground.training.algorithms import algorithm_of
from reground.training.draw import Draws
from reground.training.loop import Trainer
from reground.training.method import Method
from reground.training.ranks import together
from reground.training.rewards import Rewards
from reground.training.rl import Reinforcement
from reground.training.settings import CHANGEABLE, TrainConfig, Tuning, VisionCache
from reground.training.sft import Sft
from reground.training.sharding import shard
from reground.training.validation import Validator, validation_samples

_BATCH = 4096  # rows whose photos are looked at together


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    clean: bool = False,
    data_changed: bool = False,
) -> RunDir:
    """Run ``config`` into the folder ``out``; ``load(out)`` gives the trained model.

    A run goes on with the rows that it began with, unless ``data_changed`` says otherwise. Raises
    ``UserError`` subclasses for everything that the user can mend.
    """
    runtime = runtime_for(config)  # first: a device may not be there
    accelerator = Accelerator(
        log_with=list(config.track) or None,
        project_dir=str(out),
        cpu=runtime.device.type == "cpu",  # else ranks without a GPU would not find each other
        mixed_precision="no",  # the model's own forward casts, whoever calls it
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=config.collective_timeout_s))
        ],
    )
    with room_in(out), together(out, timeout_s=config.collective_timeout_s):
        runtime = dataclasses.replace(runtime, device=accelerator.device)
        return _train(
            config, out, accelerator, runtime, resume=resume, clean=clean, data_changed=data_changed
        )


def _check_data(files: Mapping[str, Any], out: Path) -> None:
    """Raise ``RunError`` where a run's rows are not those that it began with."""
    made = out / "made.json"
    if not made.exists():
        return
    before = json.loads(made.read_text(encoding="utf-8")).get("files", {})
    for spec, now in files.items():
        if (known := before.get(spec, now)) != now:
            counts = f"{known['rows']} rows then, {now['rows']} now"
            raise RunError(
                f"{out}: {spec} holds other rows than when the run began ({counts}); put the file "
                "back, start anew, or go on with these: --data-changed",
                help="resumed-otherwise",
            )


def runtime_for(config: TrainConfig) -> Runtime:
    """Where a run computes; raises ``ConfigError`` for a device that is not there."""
    own = config.runtime
    found = Runtime.resolve(device=own.device, dtype=own.dtype, batch_tokens=own.batch_tokens)
    return found.for_training()


def _train(
    config: TrainConfig,
    out: Path,
    accelerator: Accelerator,
    runtime: Runtime,
    *,
    resume: bool,
    clean: bool,
    data_changed: bool,
) -> RunDir:
    if config.batch_size < accelerator.num_processes:
        raise ConfigError(
            f"batch_size is {config.batch_size} for {accelerator.num_processes} ranks, which is "
            f"{config.batch_size / accelerator.num_processes:.2g} for each; expected at least 1 "
            "(a prompt and all its rollouts stay on one rank)"
        )
    parts = assembled(config, runtime, ranks=accelerator.num_processes)
    method, checkpoint = parts.method, parts.checkpoint
    validator = None
    if config.validation:
        validator = Validator(
            parts.prompter, parts.held_out, config.validation, parts.environment, parts.policy
        )
    # The folder comes last: what cannot start leaves none behind, and keeps the one to --clean.
    run = RunDir(out)
    if accelerator.is_main_process:
        files = parts.draws.files()
        if resume and not data_changed:
            _check_data(files, out)
        run = start(out, dump(config), resume=resume, clean=clean, changeable=CHANGEABLE)
        asked = _asked(parts.prompter.protocols, parts.kinds)
        made = dataclasses.asdict(_provenance(config, parts.draws, checkpoint, asked))
        _note(run, asked | made | {"files": files})
    accelerator.wait_for_everyone()
    if config.track:
        accelerator.init_trackers("reground", config=None)
    Trainer(config, method, checkpoint, run, accelerator, validator).train()
    parts.policy.close()
    accelerator.end_training()
    return run


@dataclass(frozen=True, slots=True)
class Assembled:
    """A config's parts, ready to run: its model is loaded and tuned, its rows are known."""

    checkpoint: Checkpoint
    draws: Draws
    held_out: Sequence[Sample]
    kinds: Sequence[Sample]  # of what is trained on and held out, one for each protocol
    prompter: Prompter
    environment: PlannedEnvironment
    policy: TrainedPolicy
    method: Method


def assembled(config: TrainConfig, runtime: Runtime, *, ranks: int = 1) -> Assembled:
    """Put the parts of a run together; the model comes last, after all that can be refused."""
    if config.method == "rl":  # a user's own may not be there: said before a model is loaded
        Rewards(config.rewards)
        algorithm_of(config.algorithm)
    protocols = Protocols.of(answering(config), config=config.protocol)
    draws = Draws(config.data, seed=config.seed, total=config.steps * config.batch_size)
    held_out = validation_samples(config.validation) if config.validation else ()
    kinds = _looked_at(chain(draws.known(), held_out))
    tools = _tools(protocols, kinds, chain(draws.known(), held_out), config)
    torch.manual_seed(config.seed)  # adapters start from random weights
    sharded = config.sharding == "full" and ranks > 1
    checkpoint = starting_checkpoint(config, _unspread(config, runtime) if sharded else runtime)
    runtime.of(checkpoint.model)
    policy = _policy(checkpoint, config, runtime.device)
    set_tuning(checkpoint, config.tuning)
    if config.tuning.vision == config.tuning.merger == "frozen":
        _keep_features(checkpoint, config.vision_cache)
    prompter = Prompter(checkpoint, protocols)
    environment = PlannedEnvironment(
        prompter,
        tools,
        timeout_s=config.tools.timeout_s,
        cache=Path(config.tools.cache) if config.tools.cache else None,
    )
    method = _method(prompter, draws, environment, policy, config)
    if sharded:
        for module in {method.module, method.reference or method.module}:
            shard(module, checkpoint.model, from_first=not _samples(config))
    return Assembled(checkpoint, draws, held_out, kinds, prompter, environment, policy, method)


def _looked_at(rows: Iterable[Sample]) -> list[Sample]:
    """The first of ``rows`` with each protocol that one names, or none.

    Raises ``DataError`` where photos are missing or no photos: now, and not at their turn. So many
    rows are in memory at a time.
    """
    kinds: dict[ProtocolName | None, Sample] = {}
    looked: set[int] = set()
    problems: list[str] = []
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH)):
        for row in batch:
            kinds.setdefault(row.protocol, row)
        users = {
            image: row.id
            for row in reversed(batch)
            for image in row.images
            if hash(image) not in looked
        }
        looked.update(map(hash, users))
        wrong = unreadable(users)
        problems += [f"{users[image]}: {problem}" for image, problem in wrong.items()]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(looked)} photos cannot be used: {'; '.join(problems[:3])}"
            f"{'; ...' if len(problems) > 3 else ''}. `reground data validate FILE --out CLEAN` "
            "leaves their rows out",
            help="images-that-cannot-be-used",
        )
    return list(kinds.values())


def _unspread(config: TrainConfig, runtime: Runtime) -> Runtime:
    """Where a rank's weights are before they are spread: every layer goes to the device on its own.

    Each rank loads them to sample with them, otherwise the first rank alone.
    """
    loads = _samples(config) or torch.distributed.get_rank() == 0
    return dataclasses.replace(runtime, device=torch.device("cpu" if loads else "meta"))


def _samples(config: TrainConfig) -> bool:
    """Whether the ranks of a run sample, for training or validation."""
    return config.method == "rl" or config.validation is not None


def _asked(protocols: Protocols, rows: Sequence[Sample]) -> dict[str, Any]:
    """How rows are asked, and who decided it."""
    prompts = protocols.prompts_of(protocols.used(rows))
    return {
        "family": protocols.family.name,
        "protocol": protocols.usual,
        "protocol_by": protocols.decided_by,
        "prompts": {name: dataclasses.asdict(use) for name, use in prompts.items()},
    }


def _provenance(
    config: TrainConfig, draws: Draws, checkpoint: Checkpoint, asked: Mapping[str, Any]
) -> Provenance:
    free = tuple(f"{key}{end}" for key in (*CHANGEABLE, "out") for end in ":.")
    settings = [each for each in differing_keys("{}", dump(config)) if not each.startswith(free)]
    weights = fingerprint(config.model) if _maker(config) is None else None
    about = {"config": settings, "data": digest(draws.known()), "weights": weights, "asked": asked}
    return provenance(about, **place_of(checkpoint.model))


def _note(run: RunDir, row: Mapping[str, Any]) -> None:
    """Keep what makes the run; and what goes on with it, where that is something else."""
    path = run.path / "made.json"
    if not path.exists():
        write_json(path, row)
    elif json.loads(path.read_text(encoding="utf-8")) != row:
        append_jsonl(run.path / "resumed.jsonl", {"made": row})


def starting_checkpoint(config: TrainConfig, runtime: Runtime) -> Checkpoint:
    """The model that a run begins with: loaded, or of random weights."""
    limits = PixelLimits(config.min_pixels, config.max_pixels)
    if (maker := _maker(config)) is not None:
        checkpoint = maker(config.model_settings or {}, seed=config.seed)
        set_limits(checkpoint.chat.adapter, checkpoint.chat.image_processor, limits)
        runtime.of(checkpoint.model.to(runtime.device))
    elif config.model_settings is not None:
        raise ConfigError(f"model_settings are for a model that is made, not for {config.model}")
    else:
        checkpoint = load(config.model, runtime=runtime, limits=limits)
    return dataclasses.replace(checkpoint, answering=answering(config))


def answering(config: TrainConfig) -> Answering:
    """How the run's checkpoints answer: as their start did, but for what the config says."""
    known = _known(config)
    rolls_out = config.method == "rl"  # nothing else learns to call
    return known.trained(
        family=config.family,
        protocol=config.protocol,
        prompt=config.prompt,
        zoom=config.tools.zoom if rolls_out else known.zoom,
        max_calls=config.tools.max_calls if rolls_out else known.max_calls,
    )


def _known(config: TrainConfig) -> Answering:
    if (maker := _maker(config)) is None:
        return answering_of(config.model)
    if config.family:
        return Answering(family=config.family)
    return maker(config.model_settings or {}, seed=config.seed).answering


def _maker(config: TrainConfig) -> Callable[..., Checkpoint] | None:
    """What makes a fresh model, where ``config.model`` names such a thing."""
    made = installed("checkpoints").get(config.model)
    found = made.load() if made else None
    return found if callable(found) else None


def set_tuning(checkpoint: Checkpoint, tuning: Tuning) -> None:
    """Freeze, open or adapt each part of the model, in place."""
    set_training(
        checkpoint.model,
        {"vision": tuning.vision, "merger": tuning.merger, "language": tuning.language},
        rank=tuning.lora_rank,
        alpha=tuning.lora_alpha,
    )
    if tuning.gradient_checkpointing:
        checkpoint.model.gradient_checkpointing_enable({"use_reentrant": False})
        checkpoint.model.train()  # checkpointing is off in evaluation mode; there is no dropout


def _keep_features(checkpoint: Checkpoint, settings: VisionCache) -> None:
    gib = 2**30
    keep_features(
        checkpoint.model,
        memory=int(settings.memory * gib),
        folder=Path(settings.folder) if settings.folder else None,
        disk=int(settings.disk * gib),
    )


def _tools(
    protocols: Protocols, kinds: Sequence[Sample], rows: Iterable[Sample], config: TrainConfig
) -> list[Tool]:
    """The detectors that rows may ask; raises ``ConfigError`` where they would not, or lack one."""
    used = [each.name for each in protocols.used(kinds) if Function.RESULT in each.plan.functions]
    specs = config.tools.specs
    if specs and not used:
        raise ConfigError(
            f"protocol {protocols.usual} never asks for tools.specs; expected one that does, as "
            "protocol: think_rethink, or protocol: piter and data that `reground tool run` has "
            "filled",
            help="a-protocol-that-a-family-does-not-speak",
        )
    if config.method == "rl" and used and not specs:
        raise ConfigError(
            f"protocol {used[0]} asks a tool and there is none; set tools.specs, as [precomputed]",
            help="a-protocol-that-a-family-does-not-speak",
        )
    asking = [row for row in rows if protocols.name(row) in used] if specs else []
    return [open_tool(spec, samples=asking) for spec in specs]


def _method(
    prompter: Prompter,
    draws: Draws,
    environment: PlannedEnvironment,
    policy: TrainedPolicy,
    config: TrainConfig,
) -> Method:
    match config.method:
        case "sft":
            return Sft(prompter, draws, config)
        case "rl":
            return Reinforcement(prompter, draws, environment, policy, config)
    added: Method = installed("methods")[config.method].load()(prompter, draws, config)
    return added


def _policy(checkpoint: Checkpoint, config: TrainConfig, device: torch.device) -> TrainedPolicy:
    """What samples rollouts and validation."""
    if own := config.engine.vllm:
        engine = InProcess(
            checkpoint,
            max_length=own.max_length,
            max_images=own.max_images,
            memory=own.memory,
        )
        return EnginePolicy(checkpoint, engine)
    if there := config.engine.server:
        server = Server(
            checkpoint.chat,
            there.url,
            device=device,
            timeout_s=there.timeout_s,
        )
        return EnginePolicy(checkpoint, server, UNKNOWN)
    if config.sharding == "full" and _samples(config):
        copied = dataclasses.replace(checkpoint, model=replica(checkpoint.model, device))
        return ReplicaPolicy(copied, source=checkpoint.model)
    return TransformersPolicy(checkpoint)
