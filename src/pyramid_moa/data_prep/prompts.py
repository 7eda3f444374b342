"""How a question is put to a model."""

import hashlib
import json
from dataclasses import asdict, dataclass

from pyramid_moa.backends.protocol import Message, Prompt
from pyramid_moa.errors import ConfigError

__all__ = ["PromptTemplate"]

_PLACE = "{question}"


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """A template with a place for the question.

    Attributes:
        template: the text around ``{question}``; other braces stand for themselves.
        system: a system message before it, or None.
        chat: whether the model is given a conversation, through its own chat template; otherwise
            plain text to continue, a system message in front of it.
    """

    template: str = _PLACE
    system: str | None = None
    chat: bool = True

    def __post_init__(self) -> None:
        """Check that the question has a place.

        Raises:
            ConfigError: it has none.
        """
        if _PLACE not in self.template:
            raise ConfigError(
                f"prompt template: expected {_PLACE} in it, found {self.template[:80]!r}: "
                f"put {_PLACE} where the question goes"
            )

    def render(self, question: str) -> Prompt:
        """Put a question into the template; braces in the question stay as they are."""
        # Not str.format: questions and templates contain braces.
        content = self.template.replace(_PLACE, question)
        if not self.chat:
            return Prompt(text=f"{self.system}\n\n{content}" if self.system else content)
        system = (Message(role="system", content=self.system),) if self.system else ()
        return Prompt(messages=(*system, Message(role="user", content=content)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the template and its settings, 64 hexadecimal digits."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
