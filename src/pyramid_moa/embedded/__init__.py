"""The embedded pyramid: three small members and an oracle, shipped with the package.

Each folder here is an ordinary Hugging Face model (safetensors, tokenizer, chat template, model
card) of one to four million parameters, trained by ``scripts/embedded`` on the word problems of
`pyramid_moa.data_prep.word_problems`. They let the whole system run on real language models
without a model hub; outside of those word problems they know nothing.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pyramid_moa.errors import ConfigError

__all__ = ["EMBEDDED_MEMBERS", "EMBEDDED_ORACLE", "embedded_path"]

EMBEDDED_MEMBERS = ("member-a", "member-b", "member-c")
EMBEDDED_ORACLE = "oracle"


def embedded_path(name: str) -> Path:
    """Return the folder of an embedded model, such as ``"member-a"`` or ``"oracle"``.

    Raises:
        ConfigError: there is no embedded model of that name.
    """
    known = (*EMBEDDED_MEMBERS, EMBEDDED_ORACLE)
    if name not in known:
        raise ConfigError(f"no embedded model {name!r}; there are {', '.join(known)}")
    return Path(str(files(__name__) / name))
