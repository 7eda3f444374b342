import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.backends.protocol import Message, Prompt
from pyramid_moa.data_prep.prompts import PromptTemplate
from pyramid_moa.errors import ConfigError


def test_chat_with_a_system_message():
    template = PromptTemplate(template="Solve: {question}\n{ok}", system="Be brief {x}.")
    assert template.render("1+1?") == Prompt(
        messages=(
            Message(role="system", content="Be brief {x}."),
            Message(role="user", content="Solve: 1+1?\n{ok}"),
        )
    )


def test_plain_text():
    assert PromptTemplate(template="Q: {question}\nA:", chat=False).render("x") == Prompt(
        text="Q: x\nA:"
    )
    assert PromptTemplate(system="S", chat=False).render("x") == Prompt(text="S\n\nx")


@given(st.text())
def test_any_question_stands_as_it_is(question):
    assert PromptTemplate().render(question).messages == (Message(role="user", content=question),)


def test_a_template_without_a_place_is_refused():
    with pytest.raises(ConfigError, match=r"expected \{question\}.*'Solve this'"):
        PromptTemplate(template="Solve this")


def test_fingerprint_changes_with_every_setting():
    templates = [
        PromptTemplate(),
        PromptTemplate(template="{question}?"),
        PromptTemplate(system=""),
        PromptTemplate(system="S"),
        PromptTemplate(chat=False),
    ]
    assert len({template.fingerprint for template in templates}) == len(templates)
    assert PromptTemplate().fingerprint == PromptTemplate().fingerprint
    assert len(PromptTemplate().fingerprint) == 64
