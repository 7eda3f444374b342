"""How many files the gateway's process may have open, connections among them."""

import logging

__all__ = ["raise_open_files"]

_LOG = logging.getLogger("pyramid_moa.gateway")
_WANTED = 65536


def raise_open_files() -> int:
    """Let this process open as many files as its system lets it, up to some 65,000.

    A request holds one for its client and one for each model that it asks, and the 1,024 that
    programs commonly begin with do not last for what the gateway works on at once.

    Returns:
        How many it may open now.
    """
    # Not on Windows, where the gateway does not run.
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        # macOS has a bound of its own below the one that it tells.
        _LOG.warning("open files: %d at most, expected to be allowed %d: %s", soft, wanted, error)
        return soft
    return wanted
