"""What a chat completion may ask for, as OpenAI's API names it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

MOST_MESSAGES = 64
LONGEST_PART = 100_000  # letters
MOST_PARTS = 64
MOST_STOPS = 4


class _Given(BaseModel):
    """Nothing but what is known; null is as good as left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if each is not None}


class TextPart(_Given):
    """Words."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=LONGEST_PART)]


class ImageUrl(_Given):
    """An image, in its address."""

    url: Annotated[str, Field(description="A data URL: data:image/png;base64,...")]
    detail: Annotated[
        Literal["auto", "low", "high"],
        Field(description="Changes nothing: images are shown as the model's processor does."),
    ] = "auto"


class ImagePart(_Given):
    """An image among the words."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
_Words = Annotated[str, Field(max_length=LONGEST_PART), Tag("text")]
_Parts = Annotated[list[Part], Field(min_length=1, max_length=MOST_PARTS), Tag("parts")]


class ChatMessage(_Given):
    """What somebody said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        _Words | _Parts, Discriminator(lambda each: "text" if isinstance(each, str) else "parts")
    ]
    name: str | None = None

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The content in parts."""
        whole = self.content
        return [TextPart(type="text", text=whole)] if isinstance(whole, str) else whole

    @property
    def text(self) -> str:
        """The words of all parts."""
        return "\n".join(each.text for each in self.parts if isinstance(each, TextPart))

    @property
    def urls(self) -> list[str]:
        """The images of all parts."""
        return [each.image_url.url for each in self.parts if isinstance(each, ImagePart)]


class StreamOptions(_Given):
    """What a stream holds beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(_Given):
    """The form of an answer, which is the model's own."""

    type: Literal["text"]


Zero = Annotated[float, Field(ge=0, le=0)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]


class ChatRequest(_Given):
    """A chat completion; what is not here, or has one value only, the model cannot do."""

    model: Annotated[
        str,
        Field(
            max_length=1000,
            description="A name of /v1/models: the messages are its prompt as they are. Or "
            "NAME:PROTOCOL, as tiny:think: the server writes the prompt around a phrase.",
        ),
    ]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int | None, Field(ge=1, description="At most the server's limit.")] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float, Field(ge=0, le=2, description="Default: 0, greedy.")] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: Annotated[
        Annotated[Stop, Tag("text")]
        | Annotated[list[Stop], Field(max_length=MOST_STOPS), Tag("texts")],
        Discriminator(lambda each: "text" if isinstance(each, str) else "texts"),
    ] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    # Of vLLM, for answers in several parts.
    include_stop_str_in_output: bool = False
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    # What can be asked for in one way only.
    n: Literal[1] = 1
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    logprobs: Literal[False] = False
    top_logprobs: Annotated[int, Field(ge=0, le=0)] = 0
    presence_penalty: Zero = 0.0
    frequency_penalty: Zero = 0.0
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] = 1.0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] = Field(default_factory=dict)
    tools: Annotated[list[Any], Field(max_length=0)] = Field(default_factory=list)
    tool_choice: Literal["none", "auto"] = "auto"
    store: Literal[False] = False
    # What changes nothing here.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("found max_tokens and max_completion_tokens, expected one of them")
        if self.stream_options and not self.stream:
            raise ValueError("found stream_options without stream; expected both, or none")
        continues = self.messages[-1].role == "assistant"
        if continues != self.continue_final_message:
            raise ValueError(
                f"found a last message of the {self.messages[-1].role} and continue_final_message "
                f"{self.continue_final_message}; an assistant's message at the end is continued, "
                "with continue_final_message, and no other is"
            )
        if self.add_generation_prompt is continues:
            raise ValueError(
                f"found add_generation_prompt {continues} with a last message of the "
                f"{self.messages[-1].role}; leave it out"
            )
        if continues and self.messages[-1].urls:
            raise ValueError("found an image in the message to continue; expected text alone")
        if not any(each.text or each.urls for each in self.messages):
            raise ValueError("found messages without words and images; expected something to ask")
        return self

    @property
    def most(self) -> int | None:
        """The longest answer in tokens."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def so_far(self) -> str | None:
        """What the answer begins with; None where it begins by itself."""
        return self.messages[-1].text if self.continue_final_message else None
