"""Ends a process of vLLM's when the process that started the engine is gone.

An engine in a process of its own goes on for ever when its owner is killed, and keeps its memory.
The kernel's own signal at a parent's death is of no use here: it comes when the thread that started
the process ends, and a worker among several is a grandchild.
"""

import contextlib
import os
import select
import signal
import threading

__all__ = ["OWNER_VARIABLE", "end_with_owner"]

# The process id of whoever started the engine; the engine's processes inherit it.
OWNER_VARIABLE = "PYRAMID_MOA_ENGINE_OWNER"


def end_with_owner() -> None:
    """Kill this process when the owner that its environment names has ended; nothing without one.

    vLLM ends an engine that has lost one of its workers, so that it is enough to end these.
    """
    owner = os.environ.get(OWNER_VARIABLE)
    if owner is None or int(owner) == os.getpid() or not hasattr(os, "pidfd_open"):
        return
    descriptor = None
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        descriptor = os.pidfd_open(int(owner))

    def watch() -> None:
        if descriptor is not None:
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            ended.poll()
        # Nobody is left to whom a polite end would make a difference.
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="owner watch", daemon=True).start()
