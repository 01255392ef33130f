"""``reground serve``: a page and an HTTP API over models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reground.cli.options import (
    DeviceOption,
    DTypeOption,
    EndpointOption,
    EngineOption,
    FamilyOption,
    MaxPixelsOption,
    MaxTokensOption,
    MinPixelsOption,
    ProcessorOption,
    PromptOption,
    ProtocolOption,
    ToolOption,
)

if TYPE_CHECKING:
    from reground.api import Grounder
    from reground.serving.remote import RemoteGrounder
    from reground.serving.review import ReviewPages

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        help="A run, a checkpoint folder, a hub id, or tiny (the default). Repeatable: the page "
        "compares them, requests name one of them, and the first answers those that name none.",
    ),
]
HostOption = Annotated[
    str, typer.Option(help="Where it listens; another than 127.0.0.1 takes --api-key.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
KeyOption = Annotated[
    str | None, typer.Option(envvar="REGROUND_API_KEY", help="What every request must bring.")
]
NamesOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A name by which clients call it; repeatable."),
]
OriginsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Pages of this origin may ask as well; repeatable."),
]
LogOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Keep questions and answers in this JSONL, without images; else nothing is kept.",
    ),
]
MediaOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Images may be fetched from this https host; repeatable."),
]
StudioOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The Label Studio whose uploads are read, with the key in LABEL_STUDIO_API_KEY.",
    ),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
ReviewOption = Annotated[
    Path | None,
    typer.Option(metavar="STORE", help="Serve the pages of `reground teach review STORE`, too."),
]
WaitingOption = Annotated[
    int, typer.Option(min=1, help="Questions that may wait; more get status 429.")
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="Longest time to an answer.")
]


def command(
    model: ModelsOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    api_key: KeyOption = None,
    host_name: NamesOption = None,
    allow_origin: OriginsOption = None,
    log_requests: LogOption = None,
    allow_media_host: MediaOption = None,
    label_studio: StudioOption = None,
    open_page: OpenOption = False,
    review: ReviewOption = None,
    tool: ToolOption = None,
    family: FamilyOption = None,
    protocol: ProtocolOption = None,
    prompt: PromptOption = None,
    max_tokens: MaxTokensOption = 256,
    max_waiting: WaitingOption = 256,
    timeout: TimeoutOption = 120.0,
    endpoint: EndpointOption = None,
    processor: ProcessorOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    engine: EngineOption = "transformers",
    min_pixels: MinPixelsOption = None,
    max_pixels: MaxPixelsOption = None,
) -> None:
    """Answer questions over HTTP: on a page for people, and at POST /v1/ground for programs.

    \b
    Examples:
      reground serve --open
      reground serve --model runs/sft --model runs/grpo
      reground serve --model runs/refiner --tool IDEA-Research/grounding-dino-tiny --port 9000
      reground serve --endpoint http://gpu:8000/v1 --model Qwen/Qwen3-VL-2B-Instruct \\
        --family qwen3_vl
      REGROUND_API_KEY=... reground serve --host 0.0.0.0 --host-name gpu.example.org
    """
    names = model or ["tiny"]
    _check(names, host, api_key)
    from reground.api import Grounder
    from reground.data.media import MediaHosts
    from reground.serving.guard import LOCAL, Rules
    from reground.serving.label_studio import LabelStudio
    from reground.serving.request_log import RequestLog
    from reground.serving.run import cores_for_models, listening, serve
    from reground.serving.service import Limits

    how: dict[str, Any] = {
        **{"family": family, "protocol": protocol, "prompt": prompt, "device": device},
        **{"dtype": dtype, "engine": engine, "min_pixels": min_pixels, "max_pixels": max_pixels},
    }
    media = MediaHosts.of(allow_media_host or ())
    studio = LabelStudio.of(label_studio) if label_studio else None
    remote = _remote(model, endpoint, processor, timeout, how)
    log = RequestLog(log_requests) if log_requests else None
    pages = _pages(review) if review else None
    listener = listening(host, port)  # before a model is loaded
    cores = None if remote else cores_for_models()
    grounders = remote or {name: Grounder.from_pretrained(name, **how) for name in names}
    rules = Rules(
        hosts=(*LOCAL, *map(str.lower, host_name or ())),
        origins=tuple(allow_origin or ()),
        api_key=api_key,
    )
    limits = Limits(most_waiting=max_waiting, max_tokens=max_tokens, timeout_s=timeout)
    serve(
        grounders,
        listener,
        tool=tool,
        rules=rules,
        limits=limits,
        log=log,
        media=media,
        review=pages,
        studio=studio,
        open_page=open_page,
        cores=cores,
    )


def _check(names: list[str], host: str, api_key: str | None) -> None:
    """Raise ``ConfigError`` for a model named twice, and a server for others without a key."""
    from reground.errors import ConfigError

    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"found --model {twice[0]} more than once; expected different models")
    if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
        raise ConfigError(
            f"host {host} can be reached by others; give --api-key (or REGROUND_API_KEY), which "
            "every request must bring then",
            help="a-server-for-others",
        )


def _pages(store: Path) -> ReviewPages:
    from reground.cli.teach import login
    from reground.serving.review import ReviewPages
    from reground.teacher.review.session import Session

    return ReviewPages(Session.begin(store, reviewer=login(), share=0.1, seed=0))


def _remote(
    models: list[str] | None,
    endpoint: str | None,
    processor: str | None,
    timeout_s: float,
    how: dict[str, Any],
) -> dict[str, Grounder | RemoteGrounder]:
    """The models of another server; none where there is none."""
    from reground.errors import ConfigError

    if endpoint is None:
        if processor:
            raise ConfigError("--processor is for --endpoint; a model in process has its own")
        return {}
    if not models:
        raise ConfigError("--endpoint: say which model it serves, with --model NAME")
    from reground.evaluation.predicting.predict import remote_model
    from reground.evaluation.predicting.question import Question
    from reground.rollout.endpoint import Endpoint
    from reground.serving.remote import RemoteGrounder

    found: dict[str, Grounder | RemoteGrounder] = {}
    for name in models:
        server = Endpoint(url=endpoint, model=name, timeout_s=timeout_s, retries=1)
        question = Question(model=name, data="", endpoint=server, processor=processor, **how)
        found[name] = RemoteGrounder(remote_model(question))
    return found
