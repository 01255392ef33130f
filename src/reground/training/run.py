"""From a config to a finished run: put the parts together and train."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from reground.config import dump
from reground.disk import room_in
from reground.errors import ConfigError
from reground.grounding.families import Form
from reground.model.load import Checkpoint, load
from reground.model.parts import replica, set_training
from reground.model.prompting import Prompter
from reground.model.runtime import Runtime
from reground.model.vision import keep_features
from reground.plugins import installed
from reground.rollout.engine.in_process import InProcess
from reground.rollout.engine.policy import UNKNOWN, EnginePolicy
from reground.rollout.engine.server import Server
from reground.rollout.episode import Direct, Environment
from reground.rollout.policy import TrainedPolicy
from reground.rollout.think_rethink import ThinkRethink
from reground.rollout.tools.opening import open_tool
from reground.rollout.transformers_policy import ReplicaPolicy, TransformersPolicy
from reground.runs import RunDir, start
from reground.training.draw import Draws
from reground.training.grpo import Grpo
from reground.training.loop import Trainer
from reground.training.method import Method
from reground.training.ranks import together
from reground.training.settings import CHANGEABLE, TrainConfig, Tuning, VisionCache
from reground.training.sft import Sft
from reground.training.sharding import shard
from reground.training.validation import Validator


def train(config: TrainConfig, out: Path, *, resume: bool = False, clean: bool = False) -> RunDir:
    """Run ``config`` into the folder ``out``; ``load(out)`` gives the trained model.

    Raises ``UserError`` subclasses for everything that the user can mend.
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
        return _train(config, out, accelerator, runtime, resume=resume, clean=clean)


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
) -> RunDir:
    if config.batch_size < accelerator.num_processes:
        raise ConfigError(
            f"batch_size is {config.batch_size} for {accelerator.num_processes} ranks, which is "
            f"{config.batch_size / accelerator.num_processes:.2g} for each; expected at least 1 "
            "(a prompt and all its rollouts stay on one rank)"
        )
    torch.manual_seed(config.seed)  # adapters start from random weights
    sharded = config.sharding == "full" and accelerator.num_processes > 1
    # Sharded, every layer goes to the devices on its own.
    at_first = dataclasses.replace(runtime, device=torch.device("cpu")) if sharded else runtime
    checkpoint = starting_checkpoint(config, at_first)
    runtime.of(checkpoint.model)
    policy = _policy(checkpoint, config, accelerator.device)
    set_tuning(checkpoint, config.tuning)
    if config.tuning.vision == config.tuning.merger == "frozen":
        _keep_features(checkpoint, config.vision_cache)
    prompter = Prompter.of(checkpoint)
    draws = Draws(config.data, seed=config.seed, total=config.steps * config.batch_size)
    environment = _environment(prompter, draws, config)
    method = _method(prompter, draws, environment, policy, config)
    if sharded:
        for module in {method.module, method.reference or method.module}:
            shard(module, checkpoint.model)
    validator = None
    if config.validation:
        validator = Validator(prompter, config.validation, environment, policy)
    # The folder comes last: what cannot start leaves none behind, and keeps the one to --clean.
    run = RunDir(out)
    if accelerator.is_main_process:
        run = start(out, dump(config), resume=resume, clean=clean, changeable=CHANGEABLE)
    accelerator.wait_for_everyone()
    if config.track:
        accelerator.init_trackers("reground", config=None)
    Trainer(config, method, checkpoint, run, accelerator, validator).train()
    policy.close()
    accelerator.end_training()
    return run


def starting_checkpoint(config: TrainConfig, runtime: Runtime) -> Checkpoint:
    """The model that a run begins with: loaded, or of random weights."""
    made = installed("checkpoints").get(config.model)
    if made is not None and callable(maker := made.load()):
        checkpoint: Checkpoint = maker(config.model_settings or {}, seed=config.seed)
        runtime.of(checkpoint.model.to(runtime.device))
        family = config.family or checkpoint.family
        checkpoint = dataclasses.replace(checkpoint, family=family, prompt=config.prompt)
    elif config.model_settings is not None:
        raise ConfigError(f"model_settings are for a model that is made, not for {config.model}")
    else:
        checkpoint = load(config.model, family=config.family, prompt=config.prompt, runtime=runtime)
    chat = checkpoint.chat
    chat.adapter.set_limits(chat.image_processor, config.min_pixels, config.max_pixels)
    return checkpoint


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


def _environment(prompter: Prompter, draws: Draws, config: TrainConfig) -> Environment:
    """What answers rollouts: the tools, or nobody."""
    asks = prompter.family.form is Form.THINK_RETHINK
    tools = config.tools
    if tools.specs and not asks:
        raise ConfigError(
            f"family {prompter.family.name} never asks for tools.specs; expected one that does, as "
            f"family: {prompter.family.name}/refiner, or a prompt with $tool and data that "
            "`reground tool run` has filled"
        )
    if config.method == "grpo" and asks and not tools.specs:
        raise ConfigError(
            f"family {prompter.family.name} asks a tool and there is none; set tools.specs, as "
            "[precomputed]"
        )
    if not tools.specs:
        return Direct()
    rows = list(draws.known())
    return ThinkRethink.of(
        [open_tool(spec, samples=rows) for spec in tools.specs],
        prompter.checkpoint.chat,
        prompter.family,
        max_answers=tools.max_calls,
        timeout_s=tools.timeout_s,
        cache=Path(tools.cache) if tools.cache else None,
        zoom=tools.zoom,
    )


def _method(
    prompter: Prompter,
    draws: Draws,
    environment: Environment,
    policy: TrainedPolicy,
    config: TrainConfig,
) -> Method:
    match config.method:
        case "sft":
            return Sft(prompter, draws, config)
        case "grpo":
            return Grpo(prompter, draws, environment, policy, config)
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
    if config.sharding == "full" and (config.method == "grpo" or config.validation):
        copied = dataclasses.replace(checkpoint, model=replica(checkpoint.model, device))
        return ReplicaPolicy(copied, source=checkpoint.model)
    return TransformersPolicy(checkpoint)
