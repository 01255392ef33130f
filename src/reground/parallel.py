"""One function over many parts by several processes, its results in the order of the parts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from reground.errors import RunError, UserError

T = TypeVar("T")
R = TypeVar("R")

LARGE = 2**22  # bytes; what is smaller is done before processes have begun
_MOST = 8  # each reads all parts, and works on its own


def workers_for(size: int) -> int:
    """How many processes are worth it for a file of ``size`` bytes; 1 where none may begin.

    They are forks, which know no thread of this process: it may have none but the main one, and
    torch, which has its own, must not be loaded.
    """
    is_plain = threading.active_count() == 1 and "torch" not in sys.modules
    if size < LARGE or not is_plain or not sys.platform.startswith("linux"):
        return 1
    return min(len(os.sched_getaffinity(0)), _MOST)


def mapped(work: Callable[[T], R], parts: Iterable[T], *, workers: int) -> Iterator[R]:
    """``work`` of every part, in order; the first error in that order is raised.

    Workers have all that is in memory here, so only results are sent. Each of them goes through
    ``parts``, and works on every n-th of them. With one worker this process does all itself.
    """
    if workers < 2:
        yield from map(work, parts)
        return
    context = get_context("fork")
    ends: list[Connection] = []
    started = []
    try:
        for place in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            ends.append(ours)
            own = context.Process(
                target=_work, args=(work, parts, theirs, [*ends], place, workers), daemon=True
            )
            own.start()
            started.append(own)
            theirs.close()
        yield from _results(ends)
    finally:
        for end in ends:  # a worker that still writes ends at that
            end.close()
        for own in started:
            own.join()


def _results(ends: list[Connection]) -> Iterator[Any]:
    for number in count():
        try:
            reply = ends[number % len(ends)].recv()
        except EOFError:
            raise RunError(
                "a process that worked on a part ended by itself, killed or for want of memory; "
                "start again with more memory"
            ) from None
        if reply is None:
            return
        result, error = reply
        if error is not None:
            raise error
        yield result


def _work(
    work: Callable[[T], R],
    parts: Iterable[T],
    out: Connection,
    others: list[Connection],
    place: int,
    workers: int,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads
    for end in others:  # so that writing fails once that process is gone
        end.close()
    try:
        for part in islice(parts, place, None, workers):
            out.send((work(part), None))
        out.send(None)
    except BrokenPipeError:
        return
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())
        out.send((None, error))


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
