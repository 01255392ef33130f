"""The one training loop: batch, losses, step, log, validate, save; exact to the bit on resume."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from reground.errors import TrainingError
from reground.io import append_jsonl, read_jsonl
from reground.model.load import Checkpoint
from reground.model.parts import full_state
from reground.runs import RunDir
from reground.training import checkpoint as storage
from reground.training import optimiser
from reground.training.agreement import GapError
from reground.training.method import Method, Micro, StepBatch, smaller, within
from reground.training.optimiser import Updates
from reground.training.ranks import gathered
from reground.training.settings import TrainConfig
from reground.training.signs import RECENT, new_signs
from reground.training.tally import Tally

Validate = Callable[[int], dict[str, float]]


@dataclass(slots=True)
class Trainer:
    """Runs ``method`` for the steps of ``config`` and keeps everything in ``run``."""

    config: TrainConfig
    method: Method
    checkpoint: Checkpoint
    run: RunDir
    accelerator: Accelerator
    validate: Validate | None = None
    _updates: Updates = field(init=False)
    _phases: dict[str, float] = field(default_factory=dict)
    _norms: dict[str, float] = field(default_factory=dict)
    _zero_variance: int = 0
    _limit: int | None = None  # tokens of a micro-batch that fit, where not all did
    _best: float = -1.0
    _recent: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=2 * RECENT))

    def train(self) -> None:
        """Train from the newest checkpoint, or from the start, to the last step."""
        config, accelerator, module = self.config, self.accelerator, self.method.module
        optimizer = optimiser.optimizer(module, config.optim)
        start, extra = storage.restore(self.run, module=module, optimizer=optimizer)
        self._zero_variance, self._limit = int(extra.get("zero_variance", 0)), extra.get("limit")
        self.run.truncate_after(start or -1)  # step 0 is validated anew as well
        self._best = storage.read_best(self.run)
        if start and self.run.metrics.exists():
            self._recent.extend(row for row in read_jsonl(self.run.metrics, dict) if row["step"])
        self._updates = Updates(module, optimizer, config, accelerator)
        if start == 0 and self.validate:
            self._log(0, self._validated(0))
        with (
            self._batches(start) as batches,
            _progress(config, start, shown=accelerator.is_main_process) as advance,
        ):
            for step in range(start + 1, config.steps + 1):
                metrics = self._step(step, batches(step))
                self._log(step, metrics | self._validated(step))
                self._warn(step, metrics)
                if step % config.save_every == 0 or step == config.steps:
                    self._save(step)
                advance(metrics)

    def _step(self, step: int, batch: StepBatch) -> dict[str, float]:
        """Gradients of the global batch, accumulated over micro-batches, and the update."""
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        self._watch_for_variance(step, batch)
        normaliser = self._summed(batch.normaliser)
        rate = optimiser.learning_rate(step - 1, self.config.steps, self.config.optim)
        with self._timed("update"):
            for _ in range(self.method.updates_per_batch):
                norm = self._update(step, batch, rate, normaliser)
        self._record(step, batch)
        own = {"lr": rate, "grad_norm": norm} | self._norms
        return own | dict(batch.tally.reduced(self.accelerator))

    def _update(self, step: int, batch: StepBatch, rate: float, normaliser: float) -> float:
        ranks = self.accelerator.num_processes
        total = self._summed(self._fitted(step, batch, normaliser))
        self._norms = self._updates.norms(self.checkpoint.chat.adapter.part_of)
        norm = self._updates.step(rate) if math.isfinite(total) else math.nan
        if not math.isfinite(total) or not math.isfinite(norm):
            raise TrainingError(
                f"step {step}: loss {total} with gradient norm {norm}; the last good checkpoint is "
                f"kept in {self.run.checkpoints}; lower optim.lr or look at this step's samples",
                help="loss-that-is-not-finite",
            )
        batch.tally.add("loss", total if self.accelerator.is_main_process else 0.0, 1.0 / ranks)
        return norm

    def _fitted(self, step: int, batch: StepBatch, normaliser: float) -> float:
        """The gradient of all micro-batches: where memory ends, anew in smaller ones."""
        while True:
            micros = list(within(batch.micros, self._limit))
            tally = Tally()
            try:
                total = self._gradient(micros, normaliser, tally)
            except GapError as error:
                append_jsonl(self.run.path / "engine_gap.jsonl", {"step": step} | error.record)
                raise
            except torch.OutOfMemoryError:
                if self.accelerator.num_processes > 1:
                    raise TrainingError(
                        f"step {step}: out of memory on rank {self.accelerator.process_index} of "
                        f"{self.accelerator.num_processes}, which the others cannot wait for; go "
                        "on with --resume and half of micro_batch_tokens "
                        f"({self.config.micro_batch_tokens})",
                        help="out-of-memory",
                    ) from None
                self._limit = smaller(micros, step)
            else:
                batch.tally.include(tally)
                return total
            self._updates.module.zero_grad()
            torch.cuda.empty_cache()
            self.accelerator.print(
                f"step {step}: out of memory; on with at most {self._limit} tokens at a time"
            )

    def _gradient(self, micros: list[Micro], normaliser: float, tally: Tally) -> float:
        total = 0.0
        for number, micro in enumerate(micros, start=1):
            with self._updates.part(last=number == len(micros)):
                loss = self.method.loss(self._updates.module, micro, normaliser, tally)
                self._updates.backward(loss)
            total += float(loss.detach())
        return total

    def _watch_for_variance(self, step: int, batch: StepBatch) -> None:
        """Count batches from which nothing can be learned, and stop after too many in a row."""
        self._zero_variance = 0 if self._summed(float(batch.learnable)) else self._zero_variance + 1
        batch.tally.add("rollout/zero_variance_batches", float(self._zero_variance))
        if self._zero_variance >= self.config.rollout.patience:
            terms = ", ".join(each.name for each in self.config.rewards)
            raise TrainingError(
                f"step {step}: {self._zero_variance} batches in a row had no reward variance in "
                f"any group (terms: {terms}); expected groups that differ; raise "
                "rollout.temperature, check the format in rollouts.jsonl, or start from a model "
                "that sometimes succeeds",
                help="no-reward-variance",
            )

    def _summed(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, reduction="sum"))

    def _record(self, step: int, batch: StepBatch) -> None:
        """Log the rollouts of all ranks, in the order of their items."""
        records = gathered(list(batch.records))
        if self.accelerator.num_processes > 1:
            records.sort(key=lambda record: record["item"])
        if records and self.accelerator.is_main_process:
            append_jsonl(self.run.rollouts, *({"step": step} | record for record in records))

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        append_jsonl(self.run.metrics, {"step": step} | metrics)
        append_jsonl(self.run.timings, {"step": step} | self._phases)
        self.accelerator.log(metrics | self._phases, step=step)
        self._phases.clear()

    def _warn(self, step: int, metrics: dict[str, float]) -> None:
        """Say what the last batches show to be wrong, now and then."""
        self._recent.append(metrics)
        if step % RECENT and step != self.config.steps:
            return
        signs = new_signs(list(self._recent), self.config.rewards)
        for sign in signs:
            self.accelerator.print(f"step {step}: {sign.says}")
        if signs and self.accelerator.is_main_process:
            append_jsonl(self.run.warnings, *({"step": step, "says": own.says} for own in signs))

    def _validated(self, step: int) -> dict[str, float]:
        """Figures on held-out samples, where it is time for them; the best weights are kept."""
        settings, last = self.config.validation, step == self.config.steps
        if not (self.validate and settings and (step % settings.every == 0 or last)):
            return {}
        with self._timed("validate"):
            metrics = self.validate(step * self.method.updates_per_batch)
        score = metrics["validation/acc@0.5"]
        if score > self._best:
            self._best, state = score, self._weights()
            if self.accelerator.is_main_process:
                storage.save_best(self.run, self.checkpoint, state, step=step, score=score)
        return metrics

    def _save(self, step: int) -> None:
        with self._timed("save"):
            weights = self._weights()
            extra = {"zero_variance": self._zero_variance, "limit": self._limit}
            state = self._updates.state() | {"extra": extra}
            if self.accelerator.is_main_process:
                storage.save_step(
                    self.run, step, self.checkpoint, weights, state, keep=self.config.keep
                )

    def _weights(self) -> dict[str, Tensor]:
        """The weights, gathered; every rank must call, the first one has them."""
        return full_state(self.checkpoint.model, keep=self.accelerator.is_main_process)

    @contextmanager
    def _batches(self, start: int) -> Iterator[Callable[[int], StepBatch]]:
        """Batches by step; made one ahead in a thread where the method allows it."""
        config = self.config
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes

        def make(step: int) -> StepBatch:
            first = (step - 1) * config.batch_size
            return self.method.batch(step, range(first + rank, first + config.batch_size, ranks))

        with ThreadPoolExecutor(1) as worker:
            pending: dict[int, Future[StepBatch]] = {}

            def take(step: int) -> StepBatch:
                with self._timed("batch"):
                    batch = pending.pop(step).result() if step in pending else make(step)
                if self.method.ahead and step < config.steps:
                    pending[step + 1] = worker.submit(make, step + 1)
                return batch

            yield take

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._phases[f"seconds/{phase}"] = time.perf_counter() - begin


@contextmanager
def _progress(
    config: TrainConfig, start: int, *, shown: bool
) -> Iterator[Callable[[dict[str, float]], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, disable=not shown) as bar:
        task = bar.add_task(config.method, total=config.steps, completed=start, figures="")
        names = ("loss", "reward/iou", "validation/acc@0.5")

        def advance(metrics: dict[str, float]) -> None:
            figures = "  ".join(f"{name} {metrics[name]:.3f}" for name in names if name in metrics)
            bar.update(task, advance=1, figures=figures)

        yield advance
