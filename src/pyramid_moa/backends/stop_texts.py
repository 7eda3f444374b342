"""Ends the rows of a batch whose answer holds a stop text."""

from collections.abc import Callable, Sequence

import torch
from transformers import StoppingCriteria

from pyramid_moa.backends.answer_text import find_stop

__all__ = ["StopTexts"]

# Tokens may have no text of their own.
_SPARE_TOKENS = 8


class StopTexts(StoppingCriteria):
    """Watches one call of ``generate``; B rows.

    Only the answer counts: the criterion that comes with transformers also ends a row where the
    end of the prompt and the first token together make a stop text, which no server does.

    Attributes:
        stopped: bool of shape [B]: the rows that hold a stop text so far; None before any token.
    """

    stopped: torch.Tensor | None = None

    def __init__(
        self,
        stop: Sequence[str],
        *,
        decode: Callable[[torch.Tensor], Sequence[str]],
        prompt_length: int,
    ) -> None:
        """Prepare for one batch.

        Args:
            stop: texts that end an answer.
            decode: ids [B, T] to B texts without special tokens.
            prompt_length: tokens of the padded prompts.
        """
        self._stop = stop
        self._decode = decode
        self._prompt_length = prompt_length
        # A token has at least one byte of a text, so that a text that has just been completed lies
        # within so many of the last tokens.
        self._tail = max(len(text.encode()) for text in stop) + _SPARE_TOKENS

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        """Say which rows have ended."""
        first = max(self._prompt_length, input_ids.shape[1] - self._tail)
        texts = self._decode(input_ids[:, first:])
        holds = [find_stop(text, self._stop) is not None for text in texts]
        now = torch.tensor(holds, device=input_ids.device)
        self.stopped = now if self.stopped is None else self.stopped | now
        return self.stopped
