"""Server-sent events out of bytes that come in any pieces."""

from collections.abc import Iterator

import pytest

from pyramid_moa.backends import event_stream
from pyramid_moa.backends.event_stream import EventStream
from pyramid_moa.errors import BackendError

STREAM = (
    b": a comment\r\n\r\n"
    b"data: one\r\n\r\n"
    b"event: note\nid: 7\nretry: 5\ndata:two\ndata:  lines\n\n"
    b"data\n\n"
    b"other: x\n\n"
    b"data: \xe2\x82\xac\r\r"
    b"data: the last, with no end"
)
EVENTS = [b"one", b"two\n lines", b"", "€".encode()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_events_do_not_depend_on_the_pieces(size: int) -> None:
    stream = EventStream()
    found = [
        data
        for start in range(0, len(STREAM), size)
        for data in stream.feed(STREAM[start : start + size])
    ]
    assert found == EVENTS


def test_an_event_comes_with_its_last_byte() -> None:
    stream = EventStream()
    assert list(stream.feed(b"data: x\n")) == []
    assert list(stream.feed(b"\n")) == [b"x"]


@pytest.mark.parametrize(
    "piece",
    [b"x" * 40, b"data: y\n" * 5, b"data:\n", b"data\r\n"],
    ids=["line", "lines", "empty lines", "bare lines"],
)
def test_an_event_without_an_end_is_not_collected_for_ever(
    monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    monkeypatch.setattr(event_stream, "_LONGEST", 100)
    stream = EventStream()
    fed = (data for _ in range(1000) for data in stream.feed(piece))
    with pytest.raises(BackendError, match="an event is larger"):
        list(fed)


def test_what_is_kept_is_not_looked_through_at_each_piece() -> None:
    looked_at = 0

    class Watched(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            nonlocal looked_at
            looked_at += len(self)
            return super().__iter__()

    stream = EventStream()
    stream._data = Watched()
    for _ in range(100):
        assert list(stream.feed(b"data: y\n")) == []
    assert list(stream.feed(b"\n")) == [b"\n".join([b"y"] * 100)]
    # Once, to put the event together, and perhaps not even then.
    assert looked_at <= 100


def test_many_events_are_no_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_LONGEST", 100)
    stream = EventStream()
    assert sum(len(list(stream.feed(b"data: 12345\n\n"))) for _ in range(100)) == 100
