from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwenops.engines import wire
from qwenops.errors import (
    BodyTooLargeError,
    CommandError,
    EngineError,
    InsufficientMemoryError,
    InvalidRequestError,
    LimitExceededError,
    QwenOpsError,
    error_classes,
)
from qwenops.generation import (
    Choice,
    Chunk,
    FinishReason,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    Messages,
    Regex,
    SamplingParams,
    TokenLogprob,
    Tokens,
    ToolCall,
    Usage,
)
from qwenops.text import Text, say

texts = st.text(st.characters(), max_size=30)  # lone surrogates too
integers = st.integers()
floats = st.floats(allow_nan=False)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
tokens = st.lists(integers, max_size=20).map(tuple)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=texts,
    reasoning=st.none() | texts,
    tool_calls=st.lists(st.builds(ToolCall, id=texts, name=texts, arguments=texts), max_size=2).map(tuple),
    tool_call_id=st.none() | texts,
    name=st.none() | texts,
)
conversations = st.builds(
    Messages,
    messages=st.lists(messages, max_size=4).map(tuple),
    tools=st.lists(st.dictionaries(texts, json_values, max_size=3), max_size=2).map(tuple),
    enable_thinking=st.booleans(),
    continue_final=st.booleans(),
)
structures = (
    st.none()
    | st.builds(JsonSchema, schema=texts)
    | st.just(JsonObject())
    | st.builds(Regex, pattern=texts)
    | st.builds(Choice, choices=st.lists(texts, max_size=3).map(tuple))
)
sampling = st.builds(
    SamplingParams,
    max_tokens=integers,
    temperature=floats,
    top_k=integers,
    top_p=floats,
    min_p=floats,
    presence_penalty=floats,
    frequency_penalty=floats,
    repetition_penalty=floats,
    seed=st.none() | integers,
    stop=st.lists(texts, max_size=3).map(tuple),
    include_stop=st.booleans(),
    ignore_eos=st.booleans(),
    logprobs=st.none() | integers,
    logit_bias=st.lists(st.tuples(integers, floats), max_size=3).map(tuple),
    structure=structures,
)
requests = st.builds(
    GenerationRequest,
    id=texts,
    prompt=st.builds(Tokens, ids=tokens) | conversations,
    sampling=sampling,
    model=texts,
    namespace=texts,
    trace=st.dictionaries(texts, texts, max_size=2),
)


def logprobs(*, top: st.SearchStrategy[tuple[TokenLogprob, ...]]) -> st.SearchStrategy[TokenLogprob]:
    return st.builds(TokenLogprob, token_id=integers, raw=st.binary(max_size=8), logprob=floats, top=top)


chosen = logprobs(top=st.lists(logprobs(top=st.just(())), max_size=2).map(tuple))
usages = st.builds(
    Usage,
    prompt_tokens=integers,
    completion_tokens=integers,
    cached_tokens=integers,
    reported=st.dictionaries(texts, floats, max_size=2),
)
chunks = st.builds(
    Chunk,
    text=texts,
    token_ids=tokens,
    logprobs=st.lists(chosen, max_size=2).map(tuple),
    finish_reason=st.none() | st.sampled_from(FinishReason),
    usage=st.none() | usages,
)


def crossed(*parts: Any) -> wire.Parts:
    """What arrives of a message."""
    (message,) = wire.FrameReader().feed(wire.frame("kind", *parts))
    assert message[0] == "kind"
    return message[1:]


@given(requests)
def test_any_request_arrives_as_it_was_sent(request: GenerationRequest) -> None:
    assert wire.request_from_wire(*crossed(wire.request_to_wire(request))) == request


@given(chunks)
def test_any_chunk_arrives_as_it_was_sent(chunk: Chunk) -> None:
    (parts,) = crossed(wire.piece_to_wire("a", chunk))
    assert wire.pieces_from_wire([parts]) == chunk
    assert wire.is_last(parts) == (chunk.finish_reason is not None)


@given(st.lists(chunks, min_size=1, max_size=5))
def test_pieces_that_waited_arrive_as_one_chunk_that_lost_nothing(pieces: list[Chunk]) -> None:
    arrived = [crossed(wire.piece_to_wire("a", piece))[0] for piece in pieces]
    merged = wire.pieces_from_wire(arrived)
    assert merged.text == "".join(piece.text for piece in pieces)
    assert merged.token_ids == tuple(each for piece in pieces for each in piece.token_ids)
    assert merged.logprobs == tuple(each for piece in pieces for each in piece.logprobs)
    assert merged.usage is None or merged.usage in [piece.usage for piece in pieces]


@given(st.lists(texts, max_size=5), st.data())
def test_a_stream_may_be_cut_anywhere(sent: list[str], data: st.DataObject) -> None:
    stream = b"".join(wire.frame("text", each) for each in sent)
    reader = wire.FrameReader()
    arrived: list[wire.Parts] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        arrived += reader.feed(stream[:size])
        stream = stream[size:]
    assert arrived == [["text", each] for each in sent]


@given(st.binary(max_size=200), st.sampled_from(["framed", "bare"]))
@example(b"\xc7\x02\x03\x91\xc0", "framed")
@example(b"\x91\xd6\xff\x00\x00\x00\x00", "framed")
def test_random_bytes_are_a_message_or_a_typed_error(data: bytes, form: str) -> None:
    stream = len(data).to_bytes(4, "big") + data if form == "framed" else data
    try:
        for message in wire.FrameReader().feed(stream):
            assert isinstance(message[0], str)
    except EngineError as error:
        assert error.hint  # noqa: PT017 -- either outcome is right


@given(json_values)
def test_data_that_is_not_what_it_should_be_is_a_typed_error(value: Any) -> None:
    for read in (wire.request_from_wire, wire.error_from_wire, lambda parts: wire.pieces_from_wire([parts])):
        try:
            read(value)
        except QwenOpsError:
            continue


def test_a_frame_over_the_limit_is_neither_sent_nor_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 1000)
    with pytest.raises(BodyTooLargeError, match="over the limit of 1000"):
        wire.frame("text", "x" * 1000)
    with pytest.raises(EngineError, match="a frame of 1001 bytes"):
        list(wire.FrameReader().feed((1001).to_bytes(4, "big")))


def quoted(template: str) -> str:
    """Play a translation."""
    return f"«{template}»"


ERRORS: list[QwenOpsError] = [
    InvalidRequestError(say("The value {value} is wrong.", value=3), hint=say("Send {a!r}.", a="x"), param="stop"),
    InsufficientMemoryError(say("Too big."), needed_bytes=5, available_bytes=3, hint="less"),
    CommandError("It failed.", returncode=-9, stderr="killed"),
    LimitExceededError(say("Slower: {seconds:.1f}.", seconds=1.25), retry_after_s=2.5),
    EngineError(say("{what} in {where}", what=say("A {thing}", thing=say("tree")), where=Path("/x"))),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_arrives_with_its_class_its_fields_and_its_translation(error: QwenOpsError) -> None:
    arrived = wire.error_from_wire(*crossed(wire.error_to_wire(error)))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    if isinstance(error.message, Text):
        assert isinstance(arrived.message, Text)
        assert arrived.message.translated(quoted) == error.message.translated(quoted)


def test_every_class_of_error_has_a_way_across() -> None:
    for name, known in error_classes().items():
        sizes: dict[str, Any] = {"needed_bytes": 1, "available_bytes": 0} if name.startswith("Insufficient") else {}
        arrived = wire.error_from_wire(*crossed(wire.error_to_wire(known("said", **sizes))))
        assert (type(arrived), arrived.message) == (known, "said")


def test_an_error_of_an_unknown_class_is_still_an_error_with_its_words() -> None:
    arrived = wire.error_from_wire(["NewerError", "said", "do", 3.0, {"more": 1}])
    assert (type(arrived), arrived.message, arrived.hint, arrived.retry_after_s) == (EngineError, "said", "do", 3.0)


def test_a_failure_is_raised_by_whoever_reads_the_piece() -> None:
    (parts,) = crossed(wire.piece_to_wire("a", LimitExceededError("no")))
    assert wire.is_last(parts)
    with pytest.raises(LimitExceededError):
        wire.pieces_from_wire([parts])
