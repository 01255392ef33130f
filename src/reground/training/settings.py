"""The schema of a training config. Every key has a user; every value is checked once, here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from reground.config import config
from reground.errors import did_you_mean
from reground.grounding.names import ProtocolName
from reground.plugins import installed

METHODS = ("sft", "grpo")

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

    mix: dict[str, float]
    until: float = 1.0

    def __post_init__(self) -> None:
        if not self.mix or any(weight <= 0 for weight in self.mix.values()):
            raise ValueError("mix needs at least one data spec, each with a weight above 0")
        if not 0 < self.until <= 1:
            raise ValueError(f"until is a share of the run in (0, 1], found {self.until}")


@config
class Tuning:
    """What is trained in each part: all weights, LoRA adapters beside them, or nothing."""

    vision: Literal["full", "lora", "frozen"] = "full"
    merger: Literal["full", "lora", "frozen"] = "full"
    language: Literal["full", "lora", "frozen"] = "full"
    lora_rank: int = 16
    lora_alpha: int = 32
    gradient_checkpointing: bool = False


@config
class VisionCache:
    """Features of images under a tower and merger that are both frozen: computed once for each.

    The latest used are in memory, and all of them in ``folder``, where there is one, for other
    runs too; the limits are in GiB.
    """

    memory: float = 1.0
    folder: str | None = None
    disk: float = 50.0

    def __post_init__(self) -> None:
        if self.memory < 0 or self.disk < 0:
            raise ValueError("memory and disk are limits in GiB, not below 0")


@config
class Optim:
    """AdamW with linear warm-up and a cosine down to ``final`` times the peak."""

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup: float = 0.015
    final: float = 0.0
    clip_norm: float = 1.0


@config
class Supervised:
    """SFT on the gold answer in the family's form (its reasoning chain and boxes).

    ``digit_weights`` weigh the 1st, 2nd, 3rd ... digit of every number (the last
    stands for all later ones): at 112 pixels the third digit of a 0-1000 coordinate is noise.
    A drawn row of a file brings others about the same images along, up to ``questions_per_image``:
    they share one encoding of the images.
    """

    digit_weights: tuple[float, ...] = (1.0,)
    questions_per_image: int = 1

    def __post_init__(self) -> None:
        if self.questions_per_image < 1:
            raise ValueError("questions_per_image must be at least 1")


@config
class Grpo:
    """Group relative policy optimisation with the difficulty weight of UniVG-R1 (Eq. 4).

    VG-Refiner's reward is ``iou_reward: 0, format_reward: 0.1, refinement_reward: 0.9``.
    """

    group_size: int = 8
    temperature: float = 0.9
    max_tokens: int = 256
    iou_reward: float = 1.0
    format_reward: float = 1.0
    refinement_reward: float = 0.0
    difficulty: Literal["exp", "log", "square", "none"] = "exp"
    clip: float = 0.2
    kl: float = 0.04
    normalise: Literal["sequence", "token", "dr_grpo"] = "sequence"
    updates_per_batch: int = 1
    patience: int = 20

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError("group_size must be at least 2: an advantage is relative to the group")
        if self.temperature <= 0:
            raise ValueError("temperature must be above 0: greedy rollouts do not explore")
        if not any((self.iou_reward, self.format_reward, self.refinement_reward)):
            raise ValueError("iou_reward, format_reward and refinement_reward are all 0")


@config
class VllmInProcess:
    """vLLM in the trainer's process, on ``memory``, a share of the GPU's.

    A prompt and its completion have at most ``max_length`` tokens and ``max_images`` images.
    """

    max_length: int = 8192
    max_images: int = 8
    memory: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.memory < 1:
            raise ValueError(f"memory is a share in (0, 1), found {self.memory}")


@config
class VllmServer:
    """vLLM at ``url``, given up after ``timeout_s`` seconds without an answer.

    Its workers fetch weights from the trainer's first rank, which they have to reach.
    """

    url: str
    timeout_s: float = 600.0


@config
class Engine:
    """What samples rollouts: vLLM in this process (``vllm``), a ``server``, or the model itself.

    Engine and trainer round differently: the run stops where their log-probs of a micro-batch
    differ by more than ``tolerance`` on the mean, and ``truncate`` weighs tokens by the trainer's
    probability over the engine's, at most so much (truncated importance sampling).
    """

    vllm: VllmInProcess | None = None
    server: VllmServer | None = None
    tolerance: float = 0.05
    truncate: float | None = None

    def __post_init__(self) -> None:
        if self.vllm and self.server:
            raise ValueError("vllm and server are both set; expected one engine")
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be above 0, found {self.tolerance}")
        if self.truncate is not None and self.truncate < 1:
            raise ValueError(f"truncate must be at least 1, found {self.truncate}")


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
    max_calls: int = 1
    timeout_s: float = 60.0
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.max_calls < 1 or self.timeout_s <= 0:
            raise ValueError("max_calls must be at least 1 and timeout_s above 0")


@config
class Validation:
    """Greedy answers on held-out samples every so many steps; the best checkpoint is kept."""

    data: str
    seed: int = 1_000_003
    limit: int = 128
    every: int = 100
    max_tokens: int = 96


@config
class RuntimeSettings:
    """Where a run computes, and in what precision: by itself on the GPU where there is one.

    There, weights that are trained are kept in float32 and multiplied in bfloat16, others are in
    the checkpoint's dtype; with ``dtype: float32``, and on a CPU, all are in float32. Rollouts and
    validation decode at most ``batch_tokens`` tokens together, padding included.
    """

    device: Literal["cpu", "cuda"] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    batch_tokens: int = 65_536

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, found {self.batch_tokens}")


@config
class TrainConfig:
    """One training run. ``batch_size`` counts samples (SFT, dense) or prompts (GRPO) a step.

    ``model`` is a folder, a hub id or ``tiny``; ``random`` makes a fresh one of ``model_settings``.
    ``method`` is sft, grpo, or one that an installed package adds (``dense``), which gets
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
    seed: int = 0
    steps: int = 100
    batch_size: int = 16
    micro_batch_tokens: int = 16_384
    min_pixels: int | None = None
    max_pixels: int | None = None
    runtime: RuntimeSettings = RuntimeSettings()
    tuning: Tuning = Tuning()
    vision_cache: VisionCache = VisionCache()
    sharding: Literal["none", "full"] = "none"
    collective_timeout_s: float = 1800.0
    optim: Optim = Optim()
    method_settings: dict[str, Any] | None = None
    sft: Supervised = Supervised()
    grpo: Grpo = Grpo()
    engine: Engine = Engine()
    tools: Tools = Tools()
    validation: Validation | None = None
    save_every: int = 100
    keep: int = 2
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    out: str = "runs/train"

    def __post_init__(self) -> None:
        if self.method not in (known := [*METHODS, *installed("methods")]):
            raise ValueError(f"unknown method {self.method!r}; {did_you_mean(self.method, known)}")
        if self.method_settings is not None and self.method in METHODS:
            raise ValueError(f"method_settings are for methods of packages, not for {self.method}")
        for name, least in (("seed", 0), ("steps", 1), ("batch_size", 1)):
            if (found := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, found {found}")
        if self.collective_timeout_s <= 0:
            raise ValueError(
                f"collective_timeout_s must be above 0, found {self.collective_timeout_s}"
            )
        if (self.engine.vllm or self.engine.server) and self.method != "grpo":
            raise ValueError(f"engine samples rollouts; {self.method} makes none")
        if (self.tools.specs or self.tools.zoom) and self.method != "grpo":
            raise ValueError(f"tools are asked by rollouts; {self.method} makes none")
        if self.grpo.refinement_reward and not self.tools.specs:
            raise ValueError("grpo.refinement_reward is about a detector's boxes; set tools.specs")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        ends = [phase.until for phase in self.data]
        if not ends or ends != sorted(ends) or ends[-1] != 1.0:
            raise ValueError(f"data phases must end in rising order, the last at 1.0; found {ends}")
