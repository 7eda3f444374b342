"""Character spans of tokens, however a server writes them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.backends.token_spans import token_spans

TEXTS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=40)


@given(text=TEXTS, cuts=st.lists(st.integers(0, 160), max_size=20), tail=st.binary(max_size=5))
def test_any_split_into_bytes_is_found_exactly(text: str, cuts: list[int], tail: bytes) -> None:
    raw = text.encode()
    borders = sorted({0, *(cut for cut in cuts if cut < len(raw)), len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(borders)]
    spans = token_spans(text, [*pieces, tail])
    assert len(spans) == len(pieces) + 1
    for (start, end), piece in zip(spans, pieces, strict=False):
        # The characters it touches hold it, and without the outermost they no longer do.
        assert piece in text[start:end].encode()
        assert len(text[start + 1 : end - 1].encode()) < max(len(piece), 1)
    assert spans[-1] == (len(text), len(text))


@given(text=TEXTS, pieces=st.lists(st.binary(max_size=4), max_size=20))
def test_spans_of_anything_are_in_order_and_inside(text: str, pieces: list[bytes]) -> None:
    spans = token_spans(text, pieces)
    assert len(spans) == len(pieces)
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    assert [end for _, end in spans] == sorted(end for _, end in spans)


@pytest.mark.parametrize(
    ("text", "pieces", "spans"),
    [
        pytest.param("", [b"</s>"], [(0, 0)], id="only the end token"),
        pytest.param("ab", [b"a", b"b", b"", b"</s>"], [(0, 1), (1, 2), (2, 2), (2, 2)], id="end"),
        pytest.param("4", [b"4", b" STOP", b"!"], [(0, 1), (1, 1), (1, 1)], id="cut stop text"),
        pytest.param("4", [b"4\nQ", b":"], [(0, 1), (1, 1)], id="stop text inside a token"),
        pytest.param(
            "so 4",
            [b"<think>", b"4", b"</think>", b"so", b" 4"],
            [(0, 0), (0, 0), (0, 0), (0, 2), (2, 4)],
            id="reasoning kept apart",
        ),
        pytest.param("42", [b" ", b"4", b"2"], [(0, 0), (0, 1), (1, 2)], id="stripped text"),
        pytest.param("é!", [b"\xc3", b"\xa9!"], [(0, 1), (0, 2)], id="split character"),
        pytest.param(
            "the end 42",
            [b"the", b"end", b"42", b"</s>"],
            [(0, 3), (4, 7), (8, 10), (10, 10)],
            id="lost spaces",
        ),
        pytest.param(
            "the end", ["▁the".encode(), "▁end".encode()], [(0, 3), (3, 7)], id="shown spaces"
        ),
        pytest.param(
            "aé!",
            [b"a", "\ufffd".encode(), "\ufffd".encode(), b"!"],
            [(0, 1), (1, 2), (1, 2), (2, 3)],
            id="parts of a character written as such",
        ),
        pytest.param(
            "abcd", [b"token_id:7", b"token_id:8"], [(0, 2), (2, 4)], id="numbers of tokens"
        ),
        pytest.param(
            "a\ufffd",
            [b"a", b"<x>", b"", b"", b"</s>"],
            [(0, 1), (1, 1), (1, 2), (1, 2), (2, 2)],
            id="end token after half a character",
        ),
        pytest.param("abc", [], [], id="no tokens"),
    ],
)
def test_known_cases(text: str, pieces: list[bytes], spans: list[tuple[int, int]]) -> None:
    assert token_spans(text, pieces) == spans
