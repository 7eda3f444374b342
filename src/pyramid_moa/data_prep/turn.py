"""One model's turn: it answers the queries of some chunks, each once, and every answer is kept."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from pyramid_moa.backends import Backend, Completion, Failure, Prompt, generation_cost_usd
from pyramid_moa.data_prep.budget import Budget
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.data_prep.open_chunk import OpenChunk
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.data_prep.token_estimate import estimate_tokens
from pyramid_moa.errors import BackendError, BudgetError, DataError, PyramidError
from pyramid_moa.grading import load_grader
from pyramid_moa.progress import Steps
from pyramid_moa.records import Generation, Query

__all__ = ["ALLOWANCE", "Turn", "prompt_tokens"]

# Estimates of prompt tokens come close from below, and chat templates add to them: what money is
# concerned is reckoned with so many times the estimate, or more where a model has counted more.
ALLOWANCE = 1.5
# With a limit on money, so many answers show how a model counts before many are under way.
_FIRST_FEW = 8
# Where so many answers one after the other have failed, and all of them might succeed later, the
# server is gone: the rest of the questions is better asked when it is back.
_GIVE_UP_AFTER = 100
_GIVE_UP_ROUNDS = 8


def prompt_tokens(prompt: Prompt) -> int:
    """Estimate the tokens of a prompt, chat template apart."""
    texts = [prompt.text or "", *(message.content for message in prompt.messages or ())]
    return sum(map(estimate_tokens, texts))


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A query under way."""

    chunk: OpenChunk
    query: Query
    tokens: int
    reserved_usd: float


class Turn:
    """The answers of one model to what is pending in some chunks of a run.

    Prompts go into the backend's stream as it takes them, across the borders of chunks, and rows
    come back in any order. Where something ends the turn (no money left, a failure under
    ``strict``, a server that is gone) no more prompts are given, what is under way is waited for
    and kept, and then the reason is raised.
    """

    def __init__(
        self,
        folder: RunFolder,
        pyramid: Pyramid,
        model: int,
        *,
        budget: Budget,
        strict: bool = False,
        halted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare a turn.

        Args:
            folder: the run.
            pyramid: its models, prompt, sampling and grader.
            model: index of the model: members, then the oracle.
            budget: what the run may cost.
            strict: a failed generation ends the turn.
            halted: whether to end it for another's reason: no more is asked then, and none raised.
        """
        self._folder = folder
        self._pyramid = pyramid
        self._model = model
        self._spec = pyramid.models[model]
        self._grader = load_grader(pyramid.grader)
        self._budget = budget
        self._strict = strict
        self._halted = halted
        self._asked: dict[int, _Asked] = {}
        self._held: tuple[OpenChunk, Query] | None = None
        self._stop: PyramidError | None = None
        self._answered = self._failed = self._failed_in_a_row = 0
        self._counted_tokens = self._estimated_tokens = 0

    @property
    def failed(self) -> int:
        """Answers so far that are failures."""
        return self._failed

    def run(self, backend: Backend, chunks: Iterable[int], progress: Steps) -> None:
        """Answer what is pending.

        Args:
            backend: the model.
            chunks: indices of the chunks.
            progress: advanced by the queries of these chunks.

        Raises:
            BudgetError: the next answer could take the run past its limit.
            DataError: with ``strict``, a generation failed.
            BackendError: the model can't answer anything any more.
        """
        pending = self._pending(chunks, progress)
        most: int | None = None if self._budget.most_usd is None else _FIRST_FEW
        try:
            while self._round(backend, pending, most, progress):
                most = None
        finally:
            pending.close()
        if self._stop is not None:
            raise self._stop

    def _round(
        self,
        backend: Backend,
        pending: Iterator[tuple[OpenChunk, Query]],
        most: int | None,
        progress: Steps,
    ) -> bool:
        """Ask as much as may be under way; whether there may be more to ask after it."""
        before = self._answered
        prompts = self._prompts(pending, most)
        for number, outcome in backend.stream(prompts, self._pyramid.sampling):
            self._take(self._asked.pop(number), outcome)
            progress.advance(1, note=f"{self._failed} failed, {self._budget.spent_usd:.4f} USD")
        if self._halted():
            return False
        if self._stop is None and self._held is not None and self._answered == before:
            self._stop = self._no_money(self._held[1])
        return self._stop is None and self._answered > before

    def _pending(
        self, chunks: Iterable[int], progress: Steps
    ) -> Generator[tuple[OpenChunk, Query], None, None]:
        for chunk, queries in self._folder.read_chunks(chunks):
            opened = OpenChunk(self._folder, self._model, chunk, queries)
            progress.advance(len(queries) - len(opened.pending))
            for query in opened.pending:
                yield opened, query

    def _prompts(
        self, pending: Iterator[tuple[OpenChunk, Query]], most: int | None
    ) -> Iterator[Prompt]:
        """Draw prompts, possibly in the backend's own thread."""
        number = 0
        while not (self._stop or self._halted()) and (most is None or number < most):
            item = self._held or next(pending, None)
            self._held = None
            if item is None:
                return
            chunk, query = item
            prompt = self._pyramid.prompt.render(query.question)
            tokens, usd = 0, 0.0
            if self._budget.most_usd is not None:
                tokens = prompt_tokens(prompt)
                usd = self._most_usd(tokens)
                if not self._budget.reserve(usd):
                    self._held = item
                    return
            self._asked[number] = _Asked(chunk=chunk, query=query, tokens=tokens, reserved_usd=usd)
            number += 1
            yield prompt

    def _take(self, asked: _Asked, outcome: Completion | Failure) -> None:
        row = graded_generation(asked.query, self._spec, outcome, self._grader)
        asked.chunk.add(row)
        self._budget.settle(asked.reserved_usd, row.cost_usd or 0.0)
        self._answered += 1
        if asked.tokens and row.prompt_tokens is not None:
            self._counted_tokens += row.prompt_tokens
            self._estimated_tokens += asked.tokens
        self._note_failure(row)

    def _note_failure(self, row: Generation) -> None:
        failed = row.error is not None
        self._failed += failed
        self._failed_in_a_row = self._failed_in_a_row + 1 if failed and row.can_retry else 0
        if self._stop is not None:
            return
        if failed and self._strict:
            self._stop = DataError(
                f"--strict: {row.model} failed on {self._failed} of {self._answered} queries, "
                f"first on {row.query_id}: {row.error}; what was generated is kept"
            )
        elif self._failed_in_a_row >= self._patience():
            self._stop = BackendError(
                f"{row.model} has failed {self._failed_in_a_row} times in a row, last on "
                f"{row.query_id}: {row.error}; what was generated is kept: --resume goes on when "
                "the server is back",
                can_retry=True,
            )

    def _patience(self) -> int:
        return max(_GIVE_UP_AFTER, _GIVE_UP_ROUNDS * self._spec.max_concurrency)

    def _most_usd(self, tokens: int) -> float:
        """What an answer may cost, by what the model has counted in prompts so far."""
        seen = self._counted_tokens / max(1, self._estimated_tokens)
        most = math.ceil(tokens * max(ALLOWANCE, seen))
        return generation_cost_usd(self._spec, most, self._pyramid.sampling.max_tokens)

    def _no_money(self, query: Query) -> BudgetError:
        tokens = prompt_tokens(self._pyramid.prompt.render(query.question))
        return BudgetError(
            f"stopped at --max-usd {self._budget.most_usd}: {self._budget.spent_usd:.6f} USD are "
            f"spent and the next answer of {self._spec.name} may cost "
            f"{self._most_usd(tokens):.6f}; what was generated, if anything, is kept: --resume "
            "with a larger --max-usd goes on"
        )
