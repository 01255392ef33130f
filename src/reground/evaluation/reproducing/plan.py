"""What it takes to make a published figure again: the plan of a run, and what is missing for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from reground.data import benchmarks
from reground.data.benchmarks import Benchmark
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.reproducing.memory import memory
from reground.evaluation.reproducing.published import Entry, published
from reground.grounding.boxes import FrameKind
from reground.grounding.names import ProtocolName
from reground.grounding.sample import is_file_path, read_jsonl
from reground.plugins import installed
from reground.protocols.families import Family, get_family
from reground.protocols.prompts import PromptProfile, load_profile, profile_names
from reground.protocols.published import PublishedPrompt, published_prompts, wording_of
from reground.rollout.endpoint import Endpoint

UNKNOWN = "unknown"  # whose boxes a model was shown


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that a run needs and that is not there, and what gets it."""

    what: str
    how: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a published figure is made again; ``model``, ``prompt`` and ``tool`` replace its own.

    ``url`` is that of a server that has the model. A prompt that is none is a ``ConfigError``.
    """

    entry: Entry
    model: str | None = None
    prompt: str | None = None
    tool: str | None = None
    url: str | None = None
    limit: int | None = None
    device: str | None = None
    dtype: str | None = None
    engine: Literal["transformers", "vllm"] = "transformers"

    @property
    def source(self) -> str:
        """The model that is asked: a folder, a hub id, or a name behind a server."""
        return self.model or self.entry.model.source or ""

    @property
    def benchmark(self) -> Benchmark:
        """What is known of the data."""
        return benchmarks.find(self.entry.benchmark)

    @property
    def family(self) -> Family:
        """How the published model writes boxes."""
        return get_family(self.entry.model.family)

    @property
    def protocol(self) -> ProtocolName:
        """How it is asked."""
        usual = self.benchmark.protocols.get(self.family.name, self.family.protocol)
        return self.entry.asked.protocol or usual

    @property
    def authors_prompt(self) -> PublishedPrompt | None:
        """The authors' own prompt, where it is published."""
        wanted = self.entry.asked.prompt
        return next((each for each in published_prompts() if each.name == wanted), None)

    @cached_property
    def profile(self) -> PromptProfile | None:
        """The prompt that is asked with; None where it is the authors' own and has to be given."""
        if self.prompt:
            return load_profile(self.prompt)
        if (wanted := self.authors_prompt) is None:
            return load_profile(self.family.prompts[self.protocol])
        shipped = map(load_profile, profile_names())
        return next((each for each in shipped if wanted.is_told_by(each)), None)

    def question(self) -> Question:
        """What `reground eval` is asked; a checkpoint that remembers its family is read so."""
        asked, tool = self.entry.asked, self.tool or self.entry.asked.tool
        server = Endpoint(url=self.url, model=self.source) if self.url else None
        shipped = self.profile.name if self.authors_prompt and self.profile else None
        needs_size = server and self.family.codec.frame is FrameKind.INPUT
        # A server shows images as its own processor does, unless we resize them before.
        fewest, most = asked.pixels if asked.pixels and (needs_size or not server) else (None, None)
        return Question(
            model=self.source,
            data=self.entry.benchmark,
            limit=self.limit,
            family=None if not server and _remembers(self.source) else self.family.name,
            protocol=asked.protocol,
            tool=ToolUse(spec=tool) if tool else None,
            prompt=self.prompt or shipped,
            authors_scorer=asked.scorer,
            max_tokens=asked.max_tokens,
            min_pixels=fewest,
            max_pixels=most,
            endpoint=server,
            processor=self.entry.model.weights if needs_size else None,
            device=self.device,
            dtype=self.dtype,
            engine=self.engine,
        )

    def lines(self) -> Mapping[str, str]:
        """The plan by what it says, for a person to read."""
        asked, dtype, theirs = self.entry.asked, self.dtype or "bfloat16", self.authors_prompt
        limits = "{} to {}".format(*asked.pixels) if asked.pixels else "as its own processor says"
        size, most = published().sizes[self.entry.model.size], asked.pixels and asked.pixels[1]
        need = memory(size, images=asked.images, most_pixels=most, dtype=dtype)
        parts = f"weights {need.weights:.1f}, keys and values {need.kv:.1f}"
        prompt = f"{self.profile.name}, {wording_of(self.profile)}" if self.profile else "to give"
        figure = self.entry.figures[0]
        return {
            "published": f"{figure.value} % ({figure.table.source})",
            "model": f"{self.source}, read as family {self.family.name}",
            "data": f"{self.benchmark.title} ({self.entry.benchmark})",
            "pixels": f"{limits} (of an image)",
            "prompt": f"{prompt}; theirs: {theirs.where if theirs else 'not published'}",
            "protocol": self.protocol,
            "tool": self.tool or asked.tool or "none",
            "scorer": asked.scorer or "reground, for theirs is not published",
            "answers": f"greedy, at most {asked.max_tokens} tokens",
            "memory": f"about {need.total:.1f} GiB of a GPU in {dtype} ({parts}, "
            f"vision {need.vision:.1f})",
            "note": asked.note or "",
        }

    def missing(self) -> list[Missing]:
        """What is not there, without asking any network."""
        return [*self._missing_model(), *self._missing_data(), *self._missing_rest()]

    def _missing_model(self) -> Iterator[Missing]:
        own = self.entry.model
        if not own.loads and not self.model and not self.url:
            how = f"serve {own.source} behind an OpenAI-compatible server, and give --endpoint URL"
            yield Missing(f"a server, for {own.title} does not load here", how)
        elif not self.url and not is_here(self.source):
            get, folder = f"hf download {self.source}", f"models/{self.source.rpartition('/')[2]}"
            if self.source == own.modelscope:
                get = f"modelscope download --model {self.source} --local_dir {folder}"
                get += f", then --model {folder}"
            yield Missing(f"the model {self.source}", get)

    def _missing_data(self) -> Iterator[Missing]:
        get, photos = benchmarks.how_to_get(self.benchmark), self.benchmark.photos
        absent = [str(path) for path in benchmarks.missing(self.benchmark)]
        if data := [path for path in absent if not (photos and path.endswith(photos))]:
            yield Missing(f"the data {', '.join(data)}", get)
        if len(absent) > len(data):
            yield Missing(f"the photos {absent[-1]}", "as the data says" if data else get)
        own = benchmarks.read_from(self.benchmark)
        if own.suffix == ".jsonl" and own.is_file():
            paths = {image.path for row in read_jsonl(own) for image in row.images}
            gone = sorted(path for path in paths if is_file_path(path) and not Path(path).exists())
            if gone:
                yield Missing(f"{len(gone)} of {len(paths)} images, from {gone[0]}", get)

    def _missing_rest(self) -> Iterator[Missing]:
        theirs = self.entry.asked.tool
        tool = self.tool or theirs
        if tool == UNKNOWN:
            how = "give --tool SPEC, such as the results that `reground tool run` writes"
            yield Missing("a tool's results, for the source does not say whose", how)
        elif tool and tool.endswith(".jsonl") and not Path(tool).is_file():
            how = f"reground tool run --tool SPEC --data {self.entry.benchmark} --out {tool}"
            yield Missing(f"the tool's results {tool}", how)
        elif tool and tool == theirs and not is_here(tool):
            yield Missing(f"the tool {tool}", f"hf download {tool}")
        if self.profile is None and self.authors_prompt:
            how = "copy it into a file as docs/published.md says, and give --prompt FILE"
            yield Missing(f"the prompt, {self.authors_prompt.where}", how)


def is_here(model: str) -> bool:
    """Whether a model is a folder, a shipped one, or in the hub's cache on this machine."""
    if Path(model).is_dir() or model in installed("checkpoints"):
        return True
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any(cache.glob(f"models--{model.replace('/', '--')}/snapshots/*/config.json"))


def _remembers(model: str) -> bool:
    from reground.model.load import remembered  # torch

    return remembered(model) is not None
