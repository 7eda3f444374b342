"""Keeps log-probabilities and pooled hidden states while ``model.generate`` runs.

Memory stays at a few rows of the vocabulary and of the hidden size: nothing is kept for each
step but one number a row.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor

from pyramid_moa.backends.hidden_states_file import to_float16
from pyramid_moa.backends.protocol import HiddenStates
from pyramid_moa.backends.stop_texts import StopTexts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GenerationRecorder"]


class GenerationRecorder(LogitsProcessor):
    """Watches one call of ``generate``; B rows, V vocabulary, H hidden size.

    ``generate`` calls it after each forward pass with all ids so far and the raw logits [B, V] of
    the next position (it stands before temperature and top-p). A token's log-probability is thus
    known one call later, when the chosen token has become an input.
    """

    def __init__(
        self,
        *,
        prompt_length: int,
        end_ids: Sequence[int],
        stop_texts: StopTexts | None,
        hidden_states: HiddenStates | None,
    ) -> None:
        """Prepare for one batch.

        Args:
            prompt_length: tokens of the padded prompts.
            end_ids: tokens that end a row.
            stop_texts: the criterion that ends rows by their text, if there is one.
            hidden_states: what to keep; None keeps nothing.
        """
        self._prompt_length = prompt_length
        self._end_ids = torch.tensor(sorted(set(end_ids)))
        self._stop_texts = stop_texts
        self._wanted = hidden_states
        self._logprobs: list[torch.Tensor] = []  # [B] each
        self._alive: list[torch.Tensor] = []  # [B] each: was this token still the row's own
        self._previous: torch.Tensor | None = None  # [B, V] log-probabilities
        self._finished: torch.Tensor | None = None  # [B]
        self._step: dict[int, torch.Tensor] = {}  # layer -> [B, H] of the pass under way
        self._prompt: dict[int, torch.Tensor] = {}  # layer -> [B, H]
        self._last: dict[int, torch.Tensor] = {}
        self._sum: dict[int, torch.Tensor] = {}
        self._count: torch.Tensor | None = None  # [B]

    @contextmanager
    def watching(self, model: Any) -> Iterator[None]:  # noqa: ANN401 - untyped library
        """See the model's hidden states while the context is open."""
        with ExitStack() as stack:
            if self._wanted is not None:
                body = model.base_model
                stack.callback(
                    body.register_forward_pre_hook(self._ask_for_layers, with_kwargs=True).remove
                )
                stack.callback(body.register_forward_hook(self._take_layers).remove)
            yield

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Take note of the last token and of the pass that has just ended; change nothing."""
        self._note_token(input_ids)
        self._note_hidden_states(first=input_ids.shape[1] == self._prompt_length)
        self._previous = torch.log_softmax(scores.float(), dim=-1)
        return scores

    def finish(self, output: torch.Tensor) -> None:
        """Note the final token, which is never fed back.

        Args:
            output: ids of prompts and answers, shape [B, length].
        """
        self._note_token(output)
        self._logprob_table = torch.stack(self._logprobs, dim=1).cpu()  # [B, T]
        self._lengths = torch.stack(self._alive, dim=1).sum(dim=1).cpu()  # [B]

    def logprobs(self, row: int) -> list[float]:
        """Log-probability of each token of a row's answer, the end token included."""
        return self._logprob_table[row, : int(self._lengths[row])].tolist()

    def ended(self, row: int) -> bool:
        """Whether a row ended by itself, with an end token or a stop text."""
        assert self._finished is not None
        return bool(self._finished[row])

    def hidden_states(self, row: int) -> "dict[str, NDArray[np.float16]]":
        """Vectors [H] of one row by key."""
        if self._wanted is None:
            return {}
        vectors = {}
        for layer in self._wanted.layers:
            mean = self._prompt[layer][row]
            if self._count is not None and int(self._count[row]) > 0:
                mean = self._sum[layer][row] / self._count[row]
            pooled = {
                "last_prompt": self._prompt[layer][row],
                "last_position": self._last[layer][row],
                "answer_mean": mean,
            }
            for pooling in self._wanted.poolings:
                vectors[f"layer{layer}/{pooling}"] = to_float16(pooled[pooling].cpu().numpy())
        return vectors

    def _note_token(self, ids: torch.Tensor) -> None:
        if self._previous is None:
            return
        token = ids[:, -1]  # [B]
        finished = self._finished
        if finished is None:
            finished = torch.zeros_like(token, dtype=torch.bool)
        self._logprobs.append(self._previous.gather(1, token[:, None])[:, 0])
        self._alive.append(~finished)
        finished = finished | torch.isin(token, self._end_ids.to(token.device))
        if self._stop_texts is not None and self._stop_texts.stopped is not None:
            # generate asks the criterion after each token: it knows this one already.
            finished = finished | self._stop_texts.stopped
        self._finished = finished

    def _note_hidden_states(self, *, first: bool) -> None:
        """Pool what the pass under way has shown.

        A pass after the first one has processed the token chosen before it: it counts where the
        row had not ended with that token.
        """
        for layer, states in self._step.items():
            if first:
                self._prompt[layer] = self._last[layer] = states
                self._sum[layer] = torch.zeros_like(states)
                self._count = torch.zeros(states.shape[0], device=states.device)
            else:
                assert self._finished is not None
                alive = ~self._finished[:, None]
                self._sum[layer] = self._sum[layer] + torch.where(alive, states, 0.0)
                self._last[layer] = torch.where(alive, states, self._last[layer])
        if self._step and not first:
            assert self._count is not None
            assert self._finished is not None
            self._count = self._count + (~self._finished).float()
        self._step = {}

    def _ask_for_layers(
        self,
        module: torch.nn.Module,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        return args, {**kwargs, "output_hidden_states": True}

    def _take_layers(
        self,
        module: torch.nn.Module,
        args: tuple[object, ...],
        output: Any,  # noqa: ANN401 - untyped library
    ) -> Any:  # noqa: ANN401 - untyped library
        assert self._wanted is not None
        for layer in self._wanted.layers:
            # Prompts are padded on the left: the last position is everybody's last.
            self._step[layer] = output.hidden_states[layer][:, -1].float()
        # generate must not keep the states of every layer and step.
        output.hidden_states = None
        return output
