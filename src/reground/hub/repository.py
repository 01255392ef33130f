"""A repository of the hub: may it be written, and the one commit that fills it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2

from reground.errors import EndpointError, shown

TOKEN = "HF_TOKEN"  # the environment alone holds it: flags are seen by others

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TOKEN = re.compile(r"[!-~]+")
_THERE_ANYWAY = {".gitattributes"}
_ADVICE = {
    401: f"the token in {TOKEN} is not known; make a new one with the right to write",
    402: "its owner has to pay for this first",
    403: f"the token in {TOKEN} may not write there; take one with the right to write, or your own "
    "name as OWNER",
    404: "it is not there, or the token may not see it",
    409: "somebody else changed it at the same time; try again",
    413: "that is more than it takes; make files smaller, or fewer",
    429: "too many requests; try again in some minutes",
}


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that this user may write, and that holds nothing yet."""

    name: str
    kind: Literal["model", "dataset"]
    private: bool
    token: str = field(repr=False)

    @classmethod
    def open(cls, name: str, *, kind: Literal["model", "dataset"], private: bool) -> Repository:
        """The repository OWNER/NAME, which need not be there; nothing is changed by asking.

        Raises ``EndpointError`` for a malformed name, without a token, for one that may not write
        for OWNER, where files are there already, and where the hub does not answer.
        """
        if not _NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
            raise EndpointError(
                f"found {shown(repr(name))}, expected OWNER/NAME, as anna/cells: letters, digits, "
                "'-', '_' and '.'"
            )
        token = os.environ.get(TOKEN, "").strip()
        if not token or not _TOKEN.fullmatch(token):
            problem = "holds what no token has" if token else "is not set"
            raise EndpointError(
                f"{TOKEN} {problem}; put a token with the right to write into the environment (the "
                "hub's page settings/tokens makes one)"
            )
        repository = cls(name, kind, private, token)
        with repository._said():
            repository._check_rights()
            repository._check_empty()
        return repository

    def push(self, files: Mapping[str, Path | bytes], *, message: str) -> str:
        """Upload files by their paths in the repository, in one commit; returns its address.

        The repository is made where it is not there. Raises ``EndpointError``; then it holds none
        of the files.
        """
        from huggingface_hub import CommitOperationAdd

        with self._said():
            address = self._api().create_repo(
                self.name, repo_type=self.kind, private=self.private or None, exist_ok=True
            )
            # Not upload_folder, which may commit in several steps.
            self._api().create_commit(
                self.name,
                [
                    CommitOperationAdd(name, each if isinstance(each, bytes) else str(each))
                    for name, each in files.items()
                ],
                commit_message=message,
                repo_type=self.kind,
            )
        return str(address)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Says in one sentence what the hub, or the way to it, did not allow."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled:
            problem = "HF_HUB_OFFLINE is set; unset it to push"
        except HfHubHTTPError as error:
            problem = _refusal(error)
        except (httpx2.HTTPError, OSError) as error:
            problem = (
                f"the hub cannot be reached ({_line(error)}); see to the network, and try again"
            )
        except (ValueError, RuntimeError) as error:  # of what it answers to uploads
            cause = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else None
            problem = _refusal(cause) if cause else f"it does not take the files ({_line(error)})"
        else:
            return
        safe = problem.replace(self.token, "(the token)")
        raise EndpointError(f"{self.name}: not pushed: {safe}") from None

    def _check_rights(self) -> None:
        user = self._api().whoami()
        role = user.get("auth", {}).get("accessToken", {}).get("role")
        readable = {
            each["name"] for each in user.get("orgs", []) if each.get("roleInOrg") == "read"
        }
        owners = {user["name"], *(each["name"] for each in user.get("orgs", []))} - readable
        owner = self.name.partition("/")[0]
        if role == "read":
            raise EndpointError(
                f"{self.name}: not pushed: the token in {TOKEN} may only read; make one with the "
                "right to write"
            )
        if owner.lower() not in {each.lower() for each in owners}:
            raise EndpointError(
                f"{self.name}: not pushed: the token in {TOKEN} is {user['name']}'s, who may not "
                f"write for {owner}; known are {', '.join(sorted(owners))}"
            )

    def _check_empty(self) -> None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info: Any = self._api().repo_info(self.name, repo_type=self.kind)
        except RepositoryNotFoundError:
            return
        held = {each.rfilename for each in info.siblings or ()} - _THERE_ANYWAY
        if held:
            raise EndpointError(
                f"{self.name}: not pushed: it holds {len(held)} files already, {min(held)} first; "
                "name a new repository"
            )
        if self.private and not info.private:
            raise EndpointError(
                f"{self.name}: not pushed: it is there and public; make it private, or name a new "
                "repository"
            )

    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(token=self.token, library_name="reground")


def _refusal(error: Any) -> str:
    status = error.response.status_code
    detail = error.server_message
    advice = _ADVICE.get(status, "it failed; try again later" if status >= 500 else "see its words")
    return f"the hub says {status}" + (f" ({shown(detail)})" if detail else "") + f": {advice}"


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown("; ".join(lines) or type(error).__name__)
