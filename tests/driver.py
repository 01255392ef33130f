"""Starts fresh processes as users do: ranks by torchrun, runs that are killed, a server that dies.

Nothing is forked: a process that has imported torch may have threads, and what they were about to
do is lost in a fork. What the processes do is in ``child.py``; one that has imported torch does
several jobs, because importing takes longer than these runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

CHILD = str(Path(__file__).with_name("child.py"))
PYTHON = (sys.executable, CHILD)
_TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--local-addr=127.0.0.1",
)
# Ranks meet on the loopback, whatever a name server makes of the machine's name, and how slowly.
_ALONE = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
LONGEST_S = 300.0  # that a process may live


@dataclass(frozen=True, slots=True)
class Job:
    """A run: its config, the folder that it writes, and whether it goes on with what is there."""

    config: str
    out: str
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended, and what it printed."""

    status: int
    printed: str


class Child:
    """A process that was started; what it prints goes to the file ``log``."""

    def __init__(self, command: Sequence[str], log: Path, **environment: str) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                env=os.environ | _ALONE | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )

    def ended(self, *, longest: float = LONGEST_S) -> Ended:
        """Wait for its end, which comes within so many seconds."""
        try:
            self.process.communicate(timeout=longest)
        except subprocess.TimeoutExpired:
            self.process.terminate()  # a launcher ends its ranks
            self.process.communicate(timeout=60)
            pytest.fail(f"not ended after {longest:g} s; it printed:\n{self.log.read_text()}")
        finally:
            self.process.kill()
        return Ended(self.process.returncode, self.log.read_text())


def reground(*arguments: str | Path | int, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, and check its exit code."""
    command = [sys.executable, "-m", "reground", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def torchrun(ranks: int, *words: str, log: Path) -> Child:
    """``child.py`` with these words, as so many ranks of torchrun."""
    return Child([*_TORCHRUN, f"--nproc-per-node={ranks}", CHILD, *words], log)


def unsupervised(ranks: int, *words: str, log: Path) -> list[Child]:
    """The same, as srun starts ranks: nobody ends the others where one is gone."""
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        Child(
            [*PYTHON, *words],
            log.with_suffix(f".{rank}.log"),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **shared,
        )
        for rank in range(ranks)
    ]


def planned(path: Path, jobs: Sequence[Job]) -> str:
    """Write the jobs where ``child.py`` reads them."""
    path.write_text(json.dumps([dataclasses.asdict(job) for job in jobs]))
    return str(path)


def free_port() -> int:
    """A port below those that systems give away by themselves: it stays free until it is used."""
    while True:
        port = secrets.choice(range(15_000, 30_000))
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
