"""The transformers backend with a tiny model, and what it is asked."""

from pathlib import Path
from typing import Any

from pyramid_moa.backends import HiddenStates, Message, ModelSpec, Prompt, Sampling
from pyramid_moa.backends.transformers_local import TransformersBackend

HIDDEN = HiddenStates(layers=(-1, 0, 2), poolings=("last_prompt", "last_position", "answer_mean"))
GREEDY = Sampling(max_tokens=12)


def chat(question: str) -> Prompt:
    """A conversation of one question."""
    return Prompt(messages=(Message(role="user", content=question),))


PROMPTS = [
    *(chat("how many apples " * count) for count in (1, 2, 3, 5, 7, 2)),
    *(Prompt(text=f"there are {number} apples") for number in range(20)),
]


def open_folder(folder: Path, **options: Any) -> TransformersBackend:
    """The backend with the model of a folder."""
    return TransformersBackend(ModelSpec(name="tiny", model=str(folder)), **options)
