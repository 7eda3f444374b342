"""Answers that were given before, replayed: no model runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pyramid_moa.backends.protocol import Completion, Failure, Prompt, Sampling
from pyramid_moa.records import Generation

__all__ = ["RecordedBackend"]


class RecordedBackend:
    """Replays stored generations; it is handed its rows and reads no files."""

    def __init__(self, name: str, generations: Mapping[Prompt, Generation]) -> None:
        """Keep the rows.

        Args:
            name: the model's name in its pyramid.
            generations: what it answered to each prompt.
        """
        self.name = name
        self._generations = generations
        rows = [row for row in generations.values() if row.error is None]
        self.gives_logprobs = any(row.logprobs is not None for row in rows)
        keys = {tuple(row.hidden_states or ()) for row in rows}
        self.hidden_keys: tuple[str, ...] = keys.pop() if len(keys) == 1 else ()

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
    ) -> list[Completion | Failure]:
        """Give back what was recorded; a prompt without a recording is a failure."""
        return [self._replay(prompt) for prompt in prompts]

    async def agenerate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[Completion | Failure]:
        """Do the same: nothing here blocks."""
        return self.generate(prompts, sampling)

    def stream(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Give back what was recorded, in order."""
        for index, prompt in enumerate(prompts):
            yield index, self._replay(prompt)

    def close(self) -> None:
        """Nothing to give back."""

    def _replay(self, prompt: Prompt) -> Completion | Failure:
        row = self._generations.get(prompt)
        if row is None:
            return Failure(message=f"no recorded answer of {self.name}", can_retry=False)
        if row.error is not None:
            return Failure(message=row.error, can_retry=False, latency_s=row.latency_s or 0.0)
        return Completion(
            text=row.response or "",
            finish_reason=row.finish_reason or "stop",
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            latency_s=row.latency_s or 0.0,
            hidden_states=row.hidden_states or {},
            recorded=row,
        )
