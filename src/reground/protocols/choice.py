"""Which protocol a sample is asked under, with which prompt, and who decided that."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from reground.errors import ConfigError
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Sample
from reground.protocols.families import Family, get_family
from reground.protocols.prompts import OwnPrompt, kept
from reground.protocols.protocol import AnswerProtocol, make_protocol
from reground.protocols.published import OURS, wording_of

_LOG = logging.getLogger(__name__)

Decider = Literal["flag", "benchmark", "config", "checkpoint", "family"]
"""Who names the protocol of rows that name none; a flag (or an argument) overrules rows too."""

Prompts = Mapping[ProtocolName, str]
"""Profiles by their names, or paths of files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """How a checkpoint answers: what it was trained to, and remembers in ``reground.json``.

    ``prompts`` are the profiles that it knows, by protocol, packaged ones by their names;
    ``protocol`` is the one that it was trained under, where that is not its family's.
    """

    family: str
    protocol: ProtocolName | None = None
    prompts: Mapping[ProtocolName, str | OwnPrompt] = field(default_factory=dict)
    zoom: bool = False
    max_calls: int = 1

    def trained(
        self,
        *,
        family: str | None,
        protocol: ProtocolName | None,
        prompt: str | Prompts | None,
        zoom: bool,
        max_calls: int,
    ) -> Answering:
        """How it answers after training with these settings; None keeps what it knows.

        A ``prompt`` without a protocol belongs to the one that rows of the run usually have.
        Prompts of another family are forgotten. Raises ``ConfigError`` for a prompt that there is
        not, and for a file that is none.
        """
        known = self if family in (None, self.family) else Answering(family=family)
        known = replace(known, protocol=protocol or known.protocol, zoom=zoom, max_calls=max_calls)
        if isinstance(prompt, str):
            prompt = {known.protocol or get_family(known.family).protocol: prompt}
        new = {name: kept(own) for name, own in (prompt or {}).items()}
        return replace(known, prompts={**known.prompts, **new})


@dataclass(frozen=True, slots=True)
class PromptUse:
    """The prompt profile of one protocol: its name, the hash of its text, and who chose it.

    ``wording`` says whose it is: "as published (UniVG-R1)" or "our wording".
    """

    name: str
    sha256: str
    chosen_by: Decider
    wording: str = OURS


@dataclass(frozen=True, slots=True)
class Protocols:
    """The protocols that a checkpoint speaks, and which of them a sample is asked under."""

    answering: Answering
    usual: ProtocolName
    decided_by: Decider
    asked: Prompts = field(default_factory=dict)  # prompts from outside the checkpoint
    _made: dict[ProtocolName, AnswerProtocol] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        answering: Answering,
        *,
        family: str | None = None,
        flag: ProtocolName | None = None,
        benchmark: ProtocolName | None = None,
        config: ProtocolName | None = None,
        prompt: str | None = None,
    ) -> Protocols:
        """The first of flag, benchmark, config, checkpoint and family decides; rows go before all
        but the flag.

        ``prompt`` is that of the protocol so decided. Raises ``ConfigError`` for an unknown family
        and a protocol that it does not speak.
        """
        own = answering if family in (None, answering.family) else Answering(family=family)
        deciders: list[tuple[ProtocolName | None, Decider]] = [
            (flag, "flag"),
            (benchmark, "benchmark"),
            (config, "config"),
            (own.protocol, "checkpoint"),
            (get_family(own.family).protocol, "family"),
        ]
        usual, by = next((name, by) for name, by in deciders if name is not None)
        found = cls(own, usual, by, {usual: prompt} if prompt else {})
        found.get(usual)
        return found

    @property
    def made(self) -> list[AnswerProtocol]:
        """The protocols that somebody has asked for so far."""
        return [*self._made.values()]

    @property
    def family(self) -> Family:
        """How boxes are written."""
        return get_family(self.answering.family)

    def name(self, sample: Sample) -> ProtocolName:
        """The protocol that ``sample`` is asked under."""
        return protocol_of(sample, self.usual, self.decided_by)

    def of_sample(self, sample: Sample) -> AnswerProtocol:
        """The same as an object; raises ``ConfigError`` where the family does not speak it."""
        return self.get(self.name(sample))

    def get(self, name: ProtocolName) -> AnswerProtocol:
        """The protocol called ``name``; raises ``ConfigError`` where the family has none."""
        if name not in self._made:
            own = self.answering
            made = make_protocol(
                self.family,
                name,
                prompt=self.asked.get(name) or own.prompts.get(name),
                zoom=own.zoom,
                max_calls=own.max_calls,
            )
            if own.prompts and self._chosen_by(name) == "family":
                _LOG.warning(
                    "the checkpoint remembers no prompt for the protocol %s; it is asked with %s, "
                    "family %s's own",
                    name,
                    made.profile.name,
                    own.family,
                )
            self._made[name] = made
        return self._made[name]

    def used(self, samples: Iterable[Sample]) -> list[AnswerProtocol]:
        """The protocols of ``samples``, each once.

        Raises ``ConfigError`` where the family does not speak one of them, or where a prompt was
        asked for and none of them uses it.
        """
        names = dict.fromkeys(map(self.name, samples))
        if names and (idle := [name for name in self.asked if name not in names]):
            raise ConfigError(
                f"prompt {self.asked[idle[0]]} is for the protocol {idle[0]}, and every row says "
                f"{' or '.join(names)}; give the protocol too, or leave the prompt out"
            )
        return [self.get(name) for name in names]

    def prompts_of(self, protocols: Iterable[AnswerProtocol]) -> dict[ProtocolName, PromptUse]:
        """The prompt of each protocol, for a report."""
        return {
            each.name: PromptUse(
                each.profile.name,
                each.profile.sha256,
                self._chosen_by(each.name),
                wording_of(each.profile),
            )
            for each in protocols
        }

    def _chosen_by(self, name: ProtocolName) -> Decider:
        if name in self.asked:
            return "flag"
        return "checkpoint" if name in self.answering.prompts else "family"


def protocol_of(sample: Sample, usual: ProtocolName, decided_by: str) -> ProtocolName:
    """The protocol of ``sample`` in a run whose rows usually have ``usual``."""
    return usual if decided_by == "flag" else sample.protocol or usual
