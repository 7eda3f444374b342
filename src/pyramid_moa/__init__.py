"""Pyramid MoA: small models answer first; a trained router asks the big one when it pays."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyramid_moa.inference.gate import Gate
    from pyramid_moa.records import Decision, Generation, Query
    from pyramid_moa.router_model.router import Router
    from pyramid_moa.training.train import train

__all__ = ["Decision", "Gate", "Generation", "Query", "Router", "__version__", "train"]

__version__ = "0.1.0"

_WHERE = {
    "Decision": "pyramid_moa.records",
    "Gate": "pyramid_moa.inference.gate",
    "Generation": "pyramid_moa.records",
    "Query": "pyramid_moa.records",
    "Router": "pyramid_moa.router_model.router",
    "train": "pyramid_moa.training.train",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: torch takes seconds, --help must not."""
    import importlib

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
