"""Errors that a user can mend. The command line prints the message alone and exits with code 2."""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend; the message says what was found, what was expected, what to do.

    ``help`` is the part of docs/troubleshooting.md that says more: that of the class, or of the
    cause where it is a frequent one. Anything else that escapes is a bug of ours and keeps its
    traceback.
    """

    help = "what-an-error-says"

    def __init__(self, message: str, *, help: str | None = None) -> None:
        super().__init__(message)
        if help is not None:
            self.help = help


class ConfigError(UserError):
    """A configuration that names an unknown key or gives a value of the wrong type."""

    help = "settings"


class DataError(UserError):
    """A data file, an image or a row that cannot be used as it is."""

    help = "data"


class ModelError(UserError):
    """A checkpoint that cannot be loaded, or belongs to no known family."""

    help = "checkpoints"


class RunError(UserError):
    """A run directory that cannot be started or resumed as asked."""

    help = "runs-and-folders"


class TrainingError(UserError):
    """Training that had to stop: NaN loss, or batches from which nothing can be learned."""

    help = "training-stops"


class EngineError(UserError):
    """An engine of rollouts that disagrees with the trainer."""

    help = "rollouts-from-vllm"


class EndpointError(UserError):
    """A server of models, or the hub, that cannot be used as it is."""

    help = "servers-that-are-asked"


# White space but the space, controls, marks of direction, halves of pairs.
_UNSEEN = re.compile(
    r"[^\S ]|[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(text: str, *, limit: int = 200) -> str:
    r"""A stranger's text in a message: no control character, and at most ``limit`` characters.

    >>> shown("a\x1b[31m"), shown("x" * 300, limit=8)
    ('a\\x1b[31m', 'xxxxx...')
    """
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """The end of a message about an unknown ``name``: the nearest of ``known``, else all of them.

    ``otherwise`` is said instead of the list.

    >>> did_you_mean("grean", ["red", "green"]), did_you_mean("mauve", ["red", "green"])
    ("did you mean 'green'?", 'known are red, green')
    """
    names = list(known)
    if same := [each for each in names if each.lower() == name.lower()]:
        return f"did you mean '{same[0]}'?"
    if near := difflib.get_close_matches(name, names, n=1):
        return f"did you mean '{near[0]}'?"  # an enum's repr says more than its name
    return f"known are {', '.join(names)}" if otherwise is None else otherwise
