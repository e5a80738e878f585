"""Why a run may have to stop or to save itself before its end: SIGTERM, or a notice from the cluster."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum


class Notice(IntEnum):
    """What a process has been told; processes act together on the gravest that one of them has got."""

    NONE = 0
    SAVE = 1
    """A machine may go soon: write a checkpoint now and train on."""
    STOP = 2
    """Write a checkpoint and the bundle, and return."""


Notices = Callable[[], Notice]
"""Asked on every process after the same steps, so that it may itself wait for the other processes."""


@contextmanager
def sigterm_notices() -> Iterator[Notices]:
    """Turns SIGTERM (a cluster takes the machine back, a queue's time is up) into Notice.STOP.

    Only a main thread may handle signals; in any other there will be no notice, and who runs the loop there brings
    notices of his own (cluster.torch_workers).
    """
    stopping = threading.Event()

    def notices() -> Notice:
        return Notice.STOP if stopping.is_set() else Notice.NONE

    if threading.current_thread() is not threading.main_thread():
        yield notices
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    try:
        yield notices
    finally:
        signal.signal(signal.SIGTERM, before)
