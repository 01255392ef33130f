"""``reground serve``: an HTTP API over one model."""

from __future__ import annotations

from typing import Annotated

import typer

from reground.cli.options import (
    DeviceOption,
    DTypeOption,
    EngineOption,
    FamilyOption,
    MaxPixelsOption,
    MaxTokensOption,
    MinPixelsOption,
    PromptOption,
    ProtocolOption,
    ToolOption,
)

ModelOption = Annotated[
    str, typer.Option(metavar="MODEL", help="A run, a checkpoint folder, a hub id, or tiny.")
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
WaitingOption = Annotated[
    int, typer.Option(min=1, help="Questions that may wait; more get status 429.")
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="Longest time to an answer.")
]


def command(
    model: ModelOption = "tiny",
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    api_key: KeyOption = None,
    host_name: NamesOption = None,
    allow_origin: OriginsOption = None,
    allow_media_host: MediaOption = None,
    label_studio: StudioOption = None,
    open_page: OpenOption = False,
    tool: ToolOption = None,
    family: FamilyOption = None,
    protocol: ProtocolOption = None,
    prompt: PromptOption = None,
    max_tokens: MaxTokensOption = 256,
    max_waiting: WaitingOption = 256,
    timeout: TimeoutOption = 120.0,
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
      reground serve --model runs/refiner --tool IDEA-Research/grounding-dino-tiny --port 9000
      REGROUND_API_KEY=... reground serve --host 0.0.0.0 --host-name gpu.example.org
    """
    from reground.errors import ConfigError

    if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
        raise ConfigError(
            f"host {host} can be reached by others; give --api-key (or REGROUND_API_KEY), which "
            "every request must bring then"
        )
    from reground.api import Grounder
    from reground.serving.guard import LOCAL, Rules
    from reground.serving.label_studio import LabelStudio
    from reground.serving.run import listening, serve
    from reground.serving.service import Limits

    studio = LabelStudio.of(label_studio) if label_studio else None
    listener = listening(host, port)  # before a model is loaded
    grounder = Grounder.from_pretrained(
        model,
        family=family,
        protocol=protocol,
        prompt=prompt,
        device=device,
        dtype=dtype,
        engine=engine,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        media_hosts=allow_media_host or (),
    )
    rules = Rules(
        hosts=(*LOCAL, *map(str.lower, host_name or ())),
        origins=tuple(allow_origin or ()),
        api_key=api_key,
    )
    limits = Limits(most_waiting=max_waiting, max_tokens=max_tokens, timeout_s=timeout)
    serve(
        grounder,
        listener,
        model=model,
        tool=tool,
        rules=rules,
        limits=limits,
        studio=studio,
        open_page=open_page,
    )
