"""A prompt as tokens for a model in this process, or why it can't be answered."""

from typing import Any, cast

from jinja2 import TemplateError

from pyramid_moa.backends.protocol import Failure, Prompt, Sampling
from pyramid_moa.errors import BackendError

__all__ = ["PromptTokens", "first_line"]

# A token stands for at least one byte of text and no tokenizer in use merges more than this many
# characters on average: longer prompts are refused before they are tokenised.
_MOST_CHARACTERS_PER_TOKEN = 32


class PromptTokens:
    """Turns prompts into tokens; what is wrong with one is told whatever the others."""

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401 - untyped library
        *,
        model: str,
        context: int,
    ) -> None:
        """Keep the tokenizer.

        Args:
            tokenizer: of transformers, with the model's chat template.
            model: the model's name in its pyramid, for errors.
            context: most tokens of prompt and answer together.
        """
        self._tokenizer = tokenizer
        self._model = model
        self._context = context

    def ids(self, prompt: Prompt, sampling: Sampling) -> list[int] | Failure:
        """Tokens of a prompt, one or more.

        Raises:
            BackendError: the model takes no conversations at all.
        """
        characters = len(prompt.text or "") + sum(len(m.content) for m in prompt.messages or ())
        if characters > self._context * _MOST_CHARACTERS_PER_TOKEN:
            return self._too_long("far more", sampling)
        try:
            ids = self._tokenize(prompt)
        except (TypeError, UnicodeError) as error:
            return Failure(
                message=f"prompt can't be tokenised: {first_line(error)}", can_retry=False
            )
        if len(ids) + sampling.max_tokens > self._context:
            return self._too_long(str(len(ids)), sampling)
        if not ids:
            return Failure(message="empty prompt: no tokens to continue", can_retry=False)
        return ids

    def _too_long(self, tokens: str, sampling: Sampling) -> Failure:
        return Failure(
            message=f"prompt too long: {tokens} tokens with {sampling.max_tokens} to generate "
            f"exceed the context of {self._context} tokens",
            can_retry=False,
        )

    def _tokenize(self, prompt: Prompt) -> list[int]:
        if prompt.messages is None:
            return cast("list[int]", self._tokenizer(prompt.text)["input_ids"])
        if self._tokenizer.chat_template is None:
            raise BackendError(
                f"model {self._model!r}: its tokenizer has no chat template; set prompt.chat: "
                "false in the pyramid, or use an instruction-tuned model"
            )
        try:
            encoded = self._tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in prompt.messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )
        except TemplateError as error:
            raise BackendError(
                f"model {self._model!r}: its chat template refuses the prompt "
                f"({first_line(error)}); change prompt in the pyramid"
            ) from error
        return cast("list[int]", encoded["input_ids"])


def first_line(error: BaseException) -> str:
    """An exception of a library in one line."""
    return (str(error).strip().splitlines() or [""])[0][:300]
