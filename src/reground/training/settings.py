"""The schema of a training config. Every key has a user; every value is checked once, here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from reground.config import Count, NotNegative, Positive, Share, config
from reground.errors import ConfigError, did_you_mean
from reground.grounding.codecs import PixelLimits
from reground.grounding.names import ProtocolName
from reground.model.parts import Training
from reground.plugins import installed
from reground.rollout.http import shown
from reground.training.algorithms import AlgorithmSettings
from reground.training.algorithms.clipped import Grpo
from reground.training.rewards import Format, Iou, RefinementFormat, RefinementTerm, RewardSettings

METHODS = ("sft", "rl")

Decay = Annotated[float, Field(ge=0, lt=1)]

# What a run may be resumed with otherwise: how its figures come about, and not which.
CHANGEABLE = (
    "micro_batch_tokens",
    "runtime.batch_tokens",
    "sharding",
    "tuning.gradient_checkpointing",
    "vision_cache",
    "collective_timeout_s",
    "engine.vllm.memory",
    "engine.server.url",
    "engine.server.timeout_s",
    "tools.cache",
    "save_every",
    "keep",
    "track",
)


@config
class Phase:
    """What is drawn until a share of the run: data specs and their weights.

    A spec is the path of a canonical JSONL, or ``SCHEME:REST`` of a source, as ``synth:diff@1-3``.
    """

    mix: Annotated[dict[str, Positive], Field(min_length=1)]
    until: Annotated[float, Field(gt=0, le=1)] = 1.0


@config
class Tuning:
    """What is trained in each part: all weights, LoRA adapters next to them, or nothing."""

    vision: Training = "full"
    merger: Training = "full"
    language: Training = "full"
    lora_rank: Count = 16
    lora_alpha: Count = 32
    gradient_checkpointing: bool = False


@config
class VisionCache:
    """Features of images under a tower and merger that are both frozen: computed once for each.

    The latest used are in memory, and all of them in ``folder``, where there is one, for other
    runs too; the limits are in GiB.
    """

    memory: NotNegative = 1.0
    folder: str | None = None
    disk: NotNegative = 50.0


@config
class Optim:
    """AdamW with linear warm-up and a cosine down to ``final`` times the peak."""

    lr: Positive = 1e-5
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: NotNegative = 0.01
    warmup: Share = 0.015
    final: Share = 0.0
    clip_norm: Positive = 1.0


@config
class Supervised:
    """SFT on the gold answer in the family's form (its reasoning chain and boxes).

    ``digit_weights`` weigh the 1st, 2nd, 3rd ... digit of every number (the last
    stands for all later ones): at 112 pixels the third digit of a 0-1000 coordinate is noise.
    A drawn row of a file brings others about the same images along, up to ``questions_per_image``:
    they share one encoding of the images.
    """

    digit_weights: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (1.0,)
    questions_per_image: Count = 1


@config
class RolloutSettings:
    """How rollouts are drawn: ``group_size`` of each prompt, at most ``max_tokens`` sampled.

    Every batch is good for ``updates_per_batch`` updates. After ``patience`` batches in a row in
    which no group has reward variance the run stops.
    """

    group_size: Annotated[int, Field(ge=2)] = 8  # an advantage is relative to the group
    temperature: Positive = 0.9
    max_tokens: Count = 256
    updates_per_batch: Count = 1
    patience: Count = 20


@config
class VllmInProcess:
    """vLLM in the trainer's process, on ``memory``, a share of the GPU's.

    A prompt and its completion have at most ``max_length`` tokens and ``max_images`` images.
    """

    max_length: Count = 8192
    max_images: Count = 8
    memory: Annotated[float, Field(gt=0, lt=1)] = 0.4


@config
class VllmServer:
    """vLLM at ``url``, given up after ``timeout_s`` seconds without an answer.

    Its workers fetch weights from the trainer's first rank, which they have to reach.
    """

    url: str
    timeout_s: Positive = 600.0

    def __post_init__(self) -> None:
        _check_no_key("url", self.url)


@config
class EngineSettings:
    """What samples rollouts: vLLM in this process (``vllm``), a ``server``, or the model itself.

    Engine and trainer round differently: the run stops where their log-probs of a micro-batch
    differ by more than ``tolerance`` on the mean, and ``truncate`` weighs tokens by the trainer's
    probability over the engine's, at most so much (truncated importance sampling).
    """

    vllm: VllmInProcess | None = None
    server: VllmServer | None = None
    tolerance: Positive = 0.05
    truncate: Annotated[float, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.vllm and self.server:
            raise ValueError("vllm and server are both set; expected one engine")


@config
class Tools:
    """The detectors that rollouts may ask, each as a spec (``reground tool run --help``).

    With ``zoom`` they may, under any protocol, also ask for a part of the image, which comes back
    as an image of its own (``zoom_in(x1, y1, x2, y2)``; the prompt ``vg_refiner_zoom`` says so).
    ``max_calls`` of a rollout are answered, of either kind. A tool that takes longer than
    ``timeout_s`` seconds about a batch is late, and the rollout goes on without it. Answers about
    images are kept in the folder ``cache``.
    """

    specs: tuple[str, ...] = ()
    zoom: bool = False
    max_calls: Count = 1
    timeout_s: Positive = 60.0
    cache: str | None = None

    def __post_init__(self) -> None:
        for spec in self.specs:
            _check_no_key("specs", spec)


def _check_no_key(name: str, address: str) -> None:
    """Of an address over HTTP: the run's config.yaml would keep it."""
    if shown(address) != address:
        raise ConfigError(  # no ValueError, whose message would quote the setting
            f"{name}: {shown(address)} holds what may be a key, and config.yaml would keep it; put "
            "a key of a detector into the environment variable REGROUND_TOOL_KEY"
        )


@config
class Validation:
    """Greedy answers on held-out samples every so many steps; the best checkpoint is kept."""

    data: str
    seed: Annotated[int, Field(ge=0)] = 1_000_003
    limit: Count = 128
    every: Count = 100
    max_tokens: Count = 96


@config
class RuntimeSettings:
    """Where a run computes, and in what precision: by itself on the GPU where there is one.

    There, weights that are trained are kept in float32 and multiplied in bfloat16, others are in
    the checkpoint's dtype; with ``dtype: float32``, and on a CPU, all are in float32. Rollouts and
    validation decode at most ``batch_tokens`` tokens together, padding included.
    """

    device: Literal["cpu", "cuda"] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    batch_tokens: Count = 65_536


@config
class TrainConfig:
    """One training run. ``batch_size`` counts samples (SFT, dense) or prompts (RL) a step.

    ``model`` is a folder, a hub id or ``tiny``; ``random`` makes a fresh one of ``model_settings``.
    ``method`` is sft, rl, or one that an installed package adds (``dense``), which gets
    ``method_settings``. ``protocol`` is that of rows that name none, ``prompt`` its profile (or one
    for each protocol); what is left out is what the model remembers, or its family's. The run's
    checkpoints remember both, with ``tools.zoom`` and ``tools.max_calls``.
    With ``sharding: full`` each of several ranks holds a part of every weight (FSDP2). A rank waits
    for the others for at most ``collective_timeout_s`` seconds: longer than their rollouts may
    differ, and longer than the first one writes a checkpoint.
    """

    method: str
    model: str = "tiny"
    model_settings: dict[str, Any] | None = None
    family: str | None = None
    protocol: ProtocolName | None = None
    prompt: str | Mapping[ProtocolName, str] | None = None
    data: tuple[Phase, ...]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    steps: Count = 100
    batch_size: Count = 16
    micro_batch_tokens: Count = 16_384
    min_pixels: Count | None = None
    max_pixels: Count | None = None
    runtime: RuntimeSettings = RuntimeSettings()
    tuning: Tuning = Tuning()
    vision_cache: VisionCache = VisionCache()
    sharding: Literal["none", "full"] = "none"
    collective_timeout_s: Positive = 1800.0
    optim: Optim = Optim()
    method_settings: dict[str, Any] | None = None
    sft: Supervised = Supervised()
    rollout: RolloutSettings = RolloutSettings()
    algorithm: AlgorithmSettings = Grpo()
    rewards: Annotated[tuple[RewardSettings, ...], Field(min_length=1)] = (Iou(), Format())
    engine: EngineSettings = EngineSettings()
    tools: Tools = Tools()
    validation: Validation | None = None
    save_every: Count = 100
    keep: Count = 2
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    out: str = "runs/train"

    def __post_init__(self) -> None:
        if self.method not in (known := [*METHODS, *installed("methods")]):
            raise ValueError(f"method: unknown {self.method!r}; {did_you_mean(self.method, known)}")
        if self.method_settings is not None and self.method in METHODS:
            raise ValueError(f"method_settings are for methods of packages, not for {self.method}")
        if (self.engine.vllm or self.engine.server) and self.method != "rl":
            raise ValueError(f"engine samples rollouts; {self.method} makes none")
        if (self.tools.specs or self.tools.zoom) and self.method != "rl":
            raise ValueError(f"tools are asked by rollouts; {self.method} makes none")
        self._check_rewards()
        PixelLimits(self.min_pixels, self.max_pixels)
        ends = [phase.until for phase in self.data]
        if not ends or ends != sorted({*ends}) or ends[-1] != 1.0:
            raise ValueError(f"data phases must end in rising order, the last at 1.0; found {ends}")

    def _check_rewards(self) -> None:
        names = [each.name for each in self.rewards]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"rewards: {twice[0]} is there twice; give it once, with its weight")
        if not any(each.weight for each in self.rewards):
            raise ValueError("rewards: every weight is 0, so that nothing would be learned")
        about_tools = [
            each for each in self.rewards if isinstance(each, RefinementTerm | RefinementFormat)
        ]
        if about_tools and not self.tools.specs:
            raise ValueError(
                f"reward {about_tools[0].name} is about a detector's boxes; set tools.specs"
            )
