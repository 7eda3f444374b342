"""What ``--dataset`` says: a source, and options behind a question mark."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from pyramid_moa.errors import ConfigError

__all__ = ["DatasetSpec", "parse_spec"]

_FORM = "NAME-OR-FILE[?key=value&key=value]"


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A source of queries.

    Attributes:
        source: ``gsm8k``, ``gsm8k:train``, ``gsm8k:test``, ``word-problems``, or the path of a
            .jsonl, .json, .csv or .parquet file.
        options: for a file the columns ``question``, ``answer``, ``id`` and ``split``; for
            ``word-problems`` the numbers ``train``, ``test`` and ``seed``.
    """

    source: str
    options: Mapping[str, str] = field(default_factory=dict)

    def check_options(self, known: Iterable[str]) -> None:
        """Refuse options that the source does not have.

        Raises:
            ConfigError: with all of them, and those that there are.
        """
        known = sorted(known)
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise ConfigError(
                f"data set {self.source}: unknown option {', '.join(map(repr, unknown))}; "
                f"it takes {', '.join(known) if known else 'none'}"
            )


def parse_spec(text: str) -> DatasetSpec:
    """Read a data set as it is written on the command line.

    Args:
        text: such as ``questions.csv?question=prompt&answer=target`` or ``gsm8k:test``.

    Raises:
        ConfigError: it is empty, or an option is not ``key=value`` or is given twice.
    """
    source, _, query = text.partition("?")
    if not source.strip():
        raise ConfigError(f"data set {text!r}: expected {_FORM}")
    if query and Path(text).is_file():
        return DatasetSpec(source=text)
    try:
        pairs = parse_qsl(query, keep_blank_values=False, strict_parsing=True) if query else []
    except ValueError as error:
        raise ConfigError(f"data set {text!r}: {error}; expected {_FORM}") from error
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigError(f"data set {text!r}: an option is given twice; expected {_FORM}")
    return DatasetSpec(source=source, options=options)
