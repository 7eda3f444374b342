"""Question and answer as one pair of texts, cut to what a verifier reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pyramid_moa.errors import CheckpointError
from pyramid_moa.records import Generation

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PairTokenizer", "TokenPair", "answer_text", "padded"]

# Characters that are looked at; far more than the tokens that are kept.
_LONGEST_QUESTION = 20_000
_LONGEST_TAIL = 4_000
_LONGEST_ANSWER = 200
# Of a long question: the beginning says what it is about, the end what is asked.
_SHARE_OF_BEGINNING = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenPair:
    """A pair of T tokens.

    Attributes:
        ids: int [T].
        types: 0 for the question, 1 for the answer where the tokenizer says so, int [T].
        answer: whether a token is the answer's, bool [T].
    """

    ids: torch.Tensor
    types: torch.Tensor
    answer: torch.Tensor


def answer_text(generation: Generation | None) -> str | None:
    """The end of an answer's text and the answer that was read off it; None without a text."""
    if generation is None or generation.error is not None or not generation.response:
        return None
    answer = (generation.answer or "none")[:_LONGEST_ANSWER]
    return f"{generation.response[-_LONGEST_TAIL:]}\nAnswer: {answer}"


class PairTokenizer:
    """Makes tokens of pairs; its state never changes, so threads may share it."""

    def __init__(self, content: str, *, tokens: int, question_tokens: int, source: str) -> None:
        """Read a tokenizer.

        Args:
            content: of ``tokenizer.json``.
            tokens: of a pair, at most; an answer's beginning is left out where it is longer.
            question_tokens: of the question, at most; its middle is left out where it is longer.
            source: name of the file, for the error.

        Raises:
            CheckpointError: it is no tokenizer.
        """
        self._pairs = _tokenizer(content, source)
        self._questions = _tokenizer(content, source)
        self._pairs.no_padding()
        self._questions.no_padding()
        self._questions.no_truncation()
        self._pairs.enable_truncation(tokens, strategy="only_second", direction="left")
        self._question_tokens = question_tokens

    def pair(self, question: str, text: str) -> TokenPair:
        """Tokens of a question and of what ``answer_text`` gives."""
        encoded = self._pairs.encode(self._shortened(_valid(question)), _valid(text))
        return TokenPair(
            ids=torch.tensor(encoded.ids),
            types=torch.tensor(encoded.type_ids),
            answer=torch.tensor([number == 1 for number in encoded.sequence_ids]),
        )

    def _shortened(self, question: str) -> str:
        question = question[-_LONGEST_QUESTION:]
        places = self._questions.encode(question, add_special_tokens=False).offsets
        if len(places) <= self._question_tokens:
            return question
        beginning = int(_SHARE_OF_BEGINNING * self._question_tokens)
        end = self._question_tokens - beginning
        return f"{question[: places[beginning][0]]} {question[places[-end][0] :]}"


def padded(pairs: Sequence[TokenPair]) -> Mapping[str, torch.Tensor]:
    """One batch of B pairs, zeros where one is shorter: ids, types, answer, mask, [B, T] each."""
    mask = [torch.ones(len(pair.ids), dtype=torch.long) for pair in pairs]
    columns = {
        "ids": [pair.ids for pair in pairs],
        "types": [pair.types for pair in pairs],
        "answer": [pair.answer for pair in pairs],
        "mask": mask,
    }
    return {
        name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        for name, values in columns.items()
    }


def _tokenizer(content: str, source: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{source}: expected a tokenizer of tokenizers: {error}") from error


def _valid(text: str) -> str:
    """Without halves of surrogate pairs, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
