"""The events are those of the bytes, however these are cut."""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.engines.lines import LineReader
from qwenops.engines.sse import Event, EventReader
from qwenops.errors import MalformedAnswerError


def read(pieces: Sequence[bytes], **limits: int) -> list[Event]:
    reader = EventReader(**limits)
    return [event for piece in pieces for event in reader.push(piece)] + reader.finish()


def cut(whole: bytes, places: Sequence[int]) -> Iterator[bytes]:
    edges = [0, *sorted(min(place, len(whole)) for place in places), len(whole)]
    return (whole[begin:end] for begin, end in pairwise(edges))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
        (b"data: one\n\r\ndata: two\r\n\n", [b"one", b"two"]),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        (b": a comment\n\n:\n\ndata: one\n\n: and more\n\n", [b"one"]),
        (b"data: one\ndata: two\ndata:\ndata\ndata: \n\n", [b"one\ntwo\n\n\n"]),
        (b"data:one\n\ndata:  two\n\n", [b"one", b" two"]),
        (b"data\n\n", [b""]),
        (b"data: one", [b"one"]),
        (b"data: one\n", [b"one"]),
        (b"data: one\n\n\n\n\n", [b"one"]),
        (b"id: 7\nretry: 100\nunknown: x\nunknown\n\n", []),
        (b"id: 7\ndata: one\nretry: 100\n\n", [b"one"]),
        (b"", []),
        (b"\n\n\n", []),
        ("data: 您好\n\n".encode(), ["您好".encode()]),
    ],
)
def test_it_reads_every_form_that_the_standard_allows(stream: bytes, events: list[bytes]) -> None:
    assert [event.data for event in read([stream])] == events
    assert [event.data for event in read([bytes([each]) for each in stream])] == events


def test_an_event_has_the_name_that_stands_with_it_and_no_other() -> None:
    stream = b"event: error\ndata: one\n\ndata: two\n\nevent: lost\n\ndata: three\n\n"
    assert read([stream]) == [Event("error", b"one"), Event("", b"two"), Event("", b"three")]


_LINE = st.one_of(
    st.sampled_from([b"", b"data", b"data:", b"data: ", b":", b"event: error", b"event", b"id: 1", b"x"]),
    st.binary(max_size=12).map(lambda raw: b"data: " + raw.replace(b"\r", b".").replace(b"\n", b".")),
    st.text(max_size=8).map(lambda text: b"data:" + text.encode(errors="replace")),
)
_STREAM = st.one_of(
    st.lists(st.tuples(_LINE, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12).map(
        lambda lines: b"".join(line + end for line, end in lines)
    ),
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"\r", b"\n", b"data: x", b"\xef\xbb\xbf", b":"]), max_size=20).map(b"".join),
)


@given(_STREAM, st.lists(st.integers(0, 400), max_size=30))
def test_any_cutting_of_the_bytes_gives_the_same_events(stream: bytes, places: list[int]) -> None:
    assert read(list(cut(stream, places))) == read([stream])


@given(_STREAM)
def test_it_agrees_with_a_plain_reading_of_the_whole(stream: bytes) -> None:
    assert read([stream]) == plainly(stream)


def plainly(stream: bytes) -> list[Event]:
    """Read a whole stream line by line, as the standard tells it."""
    found, name, data = [], "", list[bytes]()
    for line in [*stream.removeprefix(b"\xef\xbb\xbf").splitlines(), b""]:
        field, _, value = line.partition(b":")
        if line == b"":
            if data:
                found.append(Event(name, b"\n".join(data)))
            name, data = "", []
        elif field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode(errors="replace")
    return found


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=20))
def test_any_cutting_of_the_bytes_gives_the_same_lines(stream: bytes, places: list[int]) -> None:
    reader = LineReader()
    lines = [line for piece in cut(stream, places) for line in reader.push(piece)]
    assert [*lines, reader.finish()] == stream.split(b"\n")


@given(st.integers(30, 60), st.lists(st.integers(0, 400), max_size=30))
def test_what_is_too_long_is_refused_however_it_is_cut(length: int, places: list[int]) -> None:
    limit = 40
    stream = b"data: fine\n\ndata: " + b"x" * length + b"\n\n"
    if len(b"data: ") + length <= limit:
        assert [len(event.data) for event in read(list(cut(stream, places)), max_event_bytes=limit)] == [4, length]
    else:
        with pytest.raises(MalformedAnswerError):
            read(list(cut(stream, places)), max_event_bytes=limit)


def test_many_short_lines_of_one_event_are_bounded_too() -> None:
    with pytest.raises(MalformedAnswerError):
        read([b"data:x\n"] * 100, max_event_bytes=64)
    with pytest.raises(MalformedAnswerError):
        read([b"event: x\n"] * 100, max_event_bytes=64)


def test_comments_for_hours_are_no_event() -> None:
    assert read([b": waiting\n\n"] * 1000, max_event_bytes=64) == []


def test_an_event_in_tiny_pieces_takes_time_in_proportion_to_its_length() -> None:
    def seconds(length: int) -> float:
        reader = EventReader()
        began_s = time.perf_counter()
        for _ in range(length):
            reader.push(b"x")
        reader.push(b"\n\n")
        return time.perf_counter() - began_s

    seconds(2_000)
    short_s = min(seconds(10_000) for _ in range(5))
    long_s = min(seconds(80_000) for _ in range(3))
    assert long_s < short_s * 8 * 4
