"""A user's own grader, named as ``module:function``."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading.protocol import Extraction

__all__ = ["UserGrader", "load_user_grader"]

_EXPECTED = (
    "a grader of your own is named module:function, with function(text) -> str | None, "
    "or module:object, with methods extract(text) and equal(a, b)"
)


@dataclass(frozen=True)
class UserGrader:
    """Wraps a user's function or object.

    Attributes:
        name: ``module:function``.
        extract_answer: gives the answer of a response as a string or ``Extraction``, or None.
        equal_answers: compares two answers; None for equality of the stripped text.
        numeric: whether answers are numbers.
    """

    name: str
    extract_answer: Callable[[str], Any]
    equal_answers: Callable[[str, str], Any] | None = None
    numeric: bool = False

    def extract(self, text: str) -> Extraction | None:
        """Call the user's function; the place is that of the answer's last occurrence.

        Raises:
            ConfigError: the function returned something that is no answer.
        """
        answer = self.extract_answer(text)
        if answer is None or isinstance(answer, Extraction):
            return answer
        if not isinstance(answer, str):
            raise ConfigError(
                f"grader {self.name}: expected a string or None, got "
                f"{type(answer).__name__}: {_EXPECTED}"
            )
        start = text.rfind(answer) if answer else -1
        # An answer that the function worded itself stands for the whole response.
        return Extraction(answer, *((start, start + len(answer)) if start >= 0 else (0, len(text))))

    def equal(self, a: str, b: str) -> bool:
        """Ask the user's function in both orders, so that equality is symmetric."""
        if a.strip() == b.strip():
            return True
        if self.equal_answers is None:
            return False
        return bool(self.equal_answers(a, b) or self.equal_answers(b, a))


def load_user_grader(name: str) -> UserGrader:
    """Import a user's grader; modules in the working folder are found too.

    Args:
        name: ``module:function`` or ``module:object``; the part after the colon may have dots.

    Raises:
        ConfigError: no such module or name, or it is not callable.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ConfigError(f"grader {name!r}: {_EXPECTED}")
    target: Any = _import(module_name, grader=name)
    for part in path.split("."):
        if not hasattr(target, part):
            raise ConfigError(f"grader {name!r}: {module_name} has no {path!r}; {_EXPECTED}")
        target = getattr(target, part)
    if isinstance(target, type):
        target = target()
    extract = target.extract if hasattr(target, "extract") else target
    equal = getattr(target, "equal", None)
    if not callable(extract) or not (equal is None or callable(equal)):
        raise ConfigError(
            f"grader {name!r}: {path} is a {type(target).__name__}, which cannot be called; "
            f"{_EXPECTED}"
        )
    return UserGrader(
        name=name,
        extract_answer=extract,
        equal_answers=equal,
        numeric=bool(getattr(target, "numeric", False)),
    )


def _import(module_name: str, *, grader: str) -> ModuleType:
    """Import a module from the path or from the working folder."""
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # a user's module can fail in any way; it is named with its reason
        raise ConfigError(
            f"grader {grader!r}: importing {module_name!r} failed with "
            f"{type(error).__name__}: {error}; {_EXPECTED}"
        ) from error
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
