"""Graders by name, and the one that fits a data set's reference answers."""

import re
from collections.abc import Callable, Sequence

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading.exact import ExactGrader
from pyramid_moa.grading.gsm8k import Gsm8kGrader
from pyramid_moa.grading.latex import MathVerifyGrader
from pyramid_moa.grading.multiple_choice import MultipleChoiceGrader
from pyramid_moa.grading.numbers import NUMBER
from pyramid_moa.grading.protocol import Grader
from pyramid_moa.grading.python_literal import PythonLiteralGrader, is_literal
from pyramid_moa.grading.text import TextGrader
from pyramid_moa.grading.user_function import load_user_grader

__all__ = ["GRADER_NAMES", "infer_grader_name", "load_grader", "load_stored_grader"]

_GRADERS: dict[str, Callable[[], Grader]] = {
    "gsm8k": Gsm8kGrader,
    "exact": ExactGrader,
    "text": TextGrader,
    "multiple-choice": MultipleChoiceGrader,
    "math-verify": MathVerifyGrader,
    "python-literal": PythonLiteralGrader,
}
GRADER_NAMES = tuple(_GRADERS)
_ALIASES = {
    "number": "gsm8k",
    "numbers": "gsm8k",
    "numeric": "gsm8k",
    "exact-match": "exact",
    "exact-text": "exact",
    "normalised-text": "text",
    "normalized-text": "text",
    "squad": "text",
    "choice": "multiple-choice",
    "choices": "multiple-choice",
    "mcq": "multiple-choice",
    "letter": "multiple-choice",
    "math": "math-verify",
    "maths": "math-verify",
    "mathverify": "math-verify",
    "latex": "math-verify",
    "literal": "python-literal",
    "literals": "python-literal",
    "python": "python-literal",
    "python-literals": "python-literal",
    "crux": "python-literal",
}
_MATHS = re.compile(r"\\[a-zA-Z]{2,}|[√π^]|\d\s*[+*/]\s*\w|^[^=]{1,40}=[^=]|^\(.*,.*\)$|\$.+\$")


def load_grader(name: str) -> Grader:
    """Find a grader.

    Args:
        name: one of ``GRADER_NAMES`` or an alias, in any case, with - or _; or
            ``module:function``.

    Raises:
        ConfigError: there is no such grader, or the user's own cannot be loaded.
    """
    if ":" in name:
        return load_user_grader(name)
    plain = re.sub(r"[\s_-]+", "-", name.strip().casefold())
    make = _GRADERS.get(_ALIASES.get(plain, plain))
    if make is None:
        raise ConfigError(
            f"unknown grader {name!r}: expected one of {', '.join(GRADER_NAMES)}, "
            "or module:function for one of your own"
        )
    return make()


def load_stored_grader(name: str, *, own: str | None = None) -> Grader:
    """Find the grader that a run folder or a checkpoint names.

    Such a file may come from anywhere, and a ``module:function`` in it would run code: it is only
    loaded where the caller names the same one.

    Args:
        name: as the file has it.
        own: the caller's own grader, if it has one.

    Raises:
        ConfigError: it is somebody's own grader and not the caller's, or there is no such grader.
    """
    if ":" in name and name != own:
        raise ConfigError(
            f"the file names a grader of its own, {name!r}, which is code; to run it, name it "
            f"yourself: --grader {name}"
        )
    return load_grader(name)


def infer_grader_name(golds: Sequence[str]) -> str:
    """Choose the grader that fits the reference answers.

    Numbers alone give ``gsm8k``, letters from A to J ``multiple-choice``, Python literals
    ``python-literal``; any LaTeX or formula gives ``math-verify``; everything else, and nothing at
    all, ``text``. A data set of mathematics whose answers happen to be numbers gets ``gsm8k``: name
    ``math-verify`` where models may answer with expressions.
    """
    golds = [gold.strip() for gold in golds]
    if not golds:
        return "text"
    if all(NUMBER.fullmatch(gold) and "\\" not in gold for gold in golds):
        return "gsm8k"
    if all(re.fullmatch(r"\(?[A-J]\)?", gold) for gold in golds):
        return "multiple-choice"
    if all(is_literal(gold) for gold in golds):
        return "python-literal"
    if any(_MATHS.search(gold) for gold in golds):
        return "math-verify"
    return "text"
