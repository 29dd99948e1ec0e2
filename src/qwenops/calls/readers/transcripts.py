"""What speech recognition writes: FunASR's own JSON, and the answers of cloud services.

Each has a list of sentences somewhere, and its own words for who, when and what. A dialect says which; a new service
is one more entry of the table. Where a file holds one call, the call is called as the file.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from qwenops.calls.readers.columns import Column, number, words
from qwenops.calls.readers.entries import Found, Place
from qwenops.calls.readers.records import Record, Terms, entries_of, record_of
from qwenops.calls.readers.turns import Segment, Spoken, spoken_by
from qwenops.calls.schema import Recognition
from qwenops.text import say

_MS, _S, _TICKS = 0.001, 1.0, 1e-7
_IDS = ("conversation_id", "call_id", "wav_name", "file_name", "filename", "audio_file", "file_url", "source", "key")
_TASKS = ("TaskId", "task_id", "job_id", "JobName", "jobName", "ContactId", "orderId", "reqid", "RequestId")
"""Names that services give; used where nothing says which recording it is."""
_RANDOM = re.compile(r"rand_key_")
_AUDIO = re.compile(r"\.(?:wav|mp3|m4a|mp4|pcm|amr|opus|ogg|flac|aac|wma|v3|speex|json)$", re.IGNORECASE)
_TAG = re.compile(r"<\|[^|<>]*\|>")
"""Language, emotion and event, as SenseVoice writes them into the text."""
_HAN_GAP = re.compile("(?<=[\u3400-\u9fff]) +(?=[\u3400-\u9fff])")
_PERCENT = 100.0
_KEPT = frozenset({Column.CUSTOMER, Column.AGENT, Column.CHANNEL, Column.LANG, Column.CATEGORY})
_STARTED = frozenset({"started_at", "start_time", "call_time"})
"""Other names are those of the moment at which a service did its work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one recogniser writes a call down. Paths have dots; alternatives follow one another."""

    engine: str
    sentences: tuple[str, ...]
    """Where the list is; `*` goes through a list on the way."""
    text: tuple[str, ...]
    begin: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    length: str = ""
    """How long a sentence is, where its end is not said."""
    speaker: tuple[str, ...] = ()
    conf: tuple[str, ...] = ()
    unit_s: float = _MS
    unpack: Callable[[Any], Any] | None = None
    """Makes a sentence of what stands in the list."""


def _lattice(item: Any) -> Any:
    """Return a sentence of iFlytek: words within words, packed as text."""
    best = item.get("json_1best") if isinstance(item, Mapping) else None
    if isinstance(best, str):
        best = json.loads(best)
    sentence = best.get("st") if isinstance(best, Mapping) else None
    if not isinstance(sentence, Mapping):
        return None
    spoken = [
        word["cw"][0]["w"]
        for part in sentence.get("rt", ())
        for word in part.get("ws", ())
        if word.get("cw") and word["cw"][0].get("wp") != "g"
    ]
    role = sentence.get("rl")
    return {
        "text": "".join(spoken),
        "bg": sentence.get("bg"),
        "ed": sentence.get("ed"),
        "rl": "" if role == "0" else role,
    }


FUNASR: tuple[Dialect, ...] = (
    Dialect(
        engine="funasr",
        sentences=("sentence_info", "result.sentence_info", "sentences"),
        text=("text", "sentence"),
        begin=("start",),
        end=("end",),
        speaker=("spk", "speaker"),
        conf=("confidence",),
    ),
    Dialect(
        engine="funasr",
        sentences=("stamp_sents",),
        text=("text_seg",),
        begin=("start",),
        end=("end",),
        speaker=("spk",),
    ),
)
CLOUD: tuple[Dialect, ...] = (
    Dialect(
        engine="aliyun",
        sentences=("Result.Sentences", "Sentences"),
        text=("Text",),
        begin=("BeginTime",),
        end=("EndTime",),
        speaker=("SpeakerId", "ChannelId"),
    ),
    Dialect(
        engine="dashscope",
        sentences=("transcripts.*.sentences", "output.results.*.transcripts.*.sentences"),
        text=("text",),
        begin=("begin_time",),
        end=("end_time",),
        speaker=("speaker_id", "channel_id"),
    ),
    Dialect(
        engine="tencent",
        sentences=("Response.Data.ResultDetail", "Data.ResultDetail", "ResultDetail"),
        text=("FinalSentence",),
        begin=("StartMs",),
        end=("EndMs",),
        speaker=("SpeakerId",),
    ),
    Dialect(
        engine="huawei",
        sentences=("segments",),
        text=("result.text",),
        begin=("start_time",),
        end=("end_time",),
        speaker=("result.analysis_info.role", "result.analysis_info.diarization.0.speaker"),
        conf=("result.score",),
    ),
    Dialect(
        engine="volcengine",
        sentences=("result.*.utterances", "result.utterances", "utterances"),
        text=("text",),
        begin=("start_time",),
        end=("end_time",),
        speaker=("additions.speaker", "additions.channel_id", "speaker"),
    ),
    Dialect(
        engine="iflytek",
        sentences=("content.orderResult.lattice", "orderResult.lattice", "lattice"),
        text=("text",),
        begin=("bg",),
        end=("ed",),
        speaker=("rl",),
        unpack=_lattice,
    ),
    Dialect(
        engine="aws",
        sentences=("Transcript",),
        text=("Content",),
        begin=("BeginOffsetMillis",),
        end=("EndOffsetMillis",),
        speaker=("ParticipantRole", "ParticipantId"),
    ),
    Dialect(
        engine="aws",
        sentences=("results.audio_segments",),
        text=("transcript",),
        begin=("start_time",),
        end=("end_time",),
        speaker=("speaker_label", "channel_label"),
        unit_s=_S,
    ),
    Dialect(
        engine="azure",
        sentences=("recognizedPhrases",),
        text=("nBest.0.display", "nBest.0.lexical"),
        begin=("offsetInTicks",),
        length="durationInTicks",
        speaker=("speaker", "channel"),
        conf=("nBest.0.confidence",),
        unit_s=_TICKS,
    ),
    Dialect(
        engine="google",
        sentences=("results", "response.results"),
        text=("alternatives.0.transcript",),
        begin=("alternatives.0.words.0.startTime",),
        end=("resultEndTime",),
        speaker=("channelTag", "alternatives.0.words.0.speakerTag"),
        conf=("alternatives.0.confidence",),
        unit_s=_S,
    ),
    Dialect(
        engine="whisper",
        sentences=("segments",),
        text=("text",),
        begin=("start",),
        end=("end",),
        speaker=("speaker",),
        unit_s=_S,
    ),
)


def sentences_of(document: Mapping[str, Any], dialects: Sequence[Dialect]) -> tuple[Dialect, list[Any]] | None:
    """Return in which dialect a transcript is written, and its sentences; None where it is none of them."""
    for dialect in dialects:
        for path in dialect.sentences:
            found = [each for each in _items(document, path.split(".")) if each is not None]
            sentences = [dialect.unpack(each) for each in found] if dialect.unpack else found
            if sentences and any(_first(each, dialect.text) is not None for each in sentences):
                return dialect, sentences
    return None


def entries_of_transcript(
    document: Mapping[str, Any], place: Place, known: Terms, dialects: Sequence[Dialect]
) -> Iterator[Found]:
    """Yield the call of a transcript, after what is wrong with it."""
    try:
        found = _segments(document, dialects)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        yield place.problem(say("The transcript is broken: {reason}.", reason=repr(error)))
        return
    if found is None:
        engines = ", ".join(dict.fromkeys(each.engine for each in dialects))
        yield place.problem(say("This is no transcript of {engines}.", engines=engines))
        return
    engine, segments = found
    spoken = spoken_by(segments, known.speakers)
    confidences = [each.conf for each in segments if each.conf is not None]
    mean = round(sum(confidences) / len(confidences), 4) if confidences else None
    recognition = Recognition(engine=engine, mean_conf=mean)
    yield from entries_of(_record(document, place, known, spoken, recognition), place, known)


def _segments(document: Mapping[str, Any], dialects: Sequence[Dialect]) -> tuple[str, list[Segment]] | None:
    """Return which engine wrote a transcript and what was said; None where it is none of these."""
    found = sentences_of(document, dialects)
    if found is not None:
        dialect, sentences = found
        return dialect.engine, [_segment(each, dialect) for each in sentences]
    text = document.get("text")
    if dialects is FUNASR and isinstance(text, str):
        return FUNASR[0].engine, [Segment(speaker="", text=_clean(text))]
    return None


def _record(
    document: Mapping[str, Any], place: Place, known: Terms, spoken: Spoken, recognition: Recognition
) -> Record:
    """Return what a transcript says about its call besides what was spoken."""
    plain = {name: value for name, value in document.items() if isinstance(value, str | int | float)}
    record = record_of(plain, known.columns)
    values = {column: value for column, value in record.values.items() if column in _KEPT}
    if record.names.get(Column.STARTED) in _STARTED:
        values[Column.STARTED] = record.values[Column.STARTED]
    ends = [turn.t1 for turn in spoken.turns if turn.t1 is not None]
    if ends:
        values[Column.DURATION] = max(ends)
    values[Column.ID] = _name(document, place)
    return Record(values=values, names=record.names, spoken=spoken, recognition=recognition)


def _name(document: Mapping[str, Any], place: Place) -> str:
    """Return what a call is called: by its recording, else by the service's task, else by the file."""
    for key in _IDS:
        name = document.get(key)
        if isinstance(name, str) and name.strip() and not _RANDOM.match(name):
            return _AUDIO.sub("", PurePosixPath(name.strip().replace("\\", "/").partition("?")[0]).name) or name
    for key in _TASKS:
        if isinstance(document.get(key), str | int) and words(document[key]).strip():
            return words(document[key]).strip()
    return place.name


def _segment(sentence: Any, dialect: Dialect) -> Segment:
    begin, end = _seconds(_first(sentence, dialect.begin), dialect), _seconds(_first(sentence, dialect.end), dialect)
    if end is None and begin is not None and dialect.length:
        length = _seconds(_first(sentence, (dialect.length,)), dialect)
        end = None if length is None else round(begin + length, 6)
    conf = _number(_first(sentence, dialect.conf))
    speaker = words(_first(sentence, dialect.speaker)).strip()
    return Segment(
        speaker="" if speaker == "-1" else speaker,
        text=_clean(words(_first(sentence, dialect.text))) + words(_first(sentence, ("punc",))).strip(),
        t0=begin,
        t1=end,
        conf=conf / _PERCENT if conf is not None and conf > 1 else conf,
    )


def _clean(text: str) -> str:
    return _HAN_GAP.sub("", _TAG.sub("", text)).strip()


def _seconds(value: Any, dialect: Dialect) -> float | None:
    if isinstance(value, str) and value.endswith("s"):
        found = _number(value.removesuffix("s"))
        return found if found is None else round(found, 6)
    found = _number(value)
    return None if found is None else round(found * dialect.unit_s, 6)


def _number(value: Any) -> float | None:
    try:
        return None if value is None else number(value)
    except ValueError:
        return None


def _first(item: Any, paths: Sequence[str]) -> Any:
    """Return what is at the first of some paths at which there is anything."""
    for path in paths:
        found = next(_items(item, path.split("."), whole=True), None)
        if found is not None:
            return found
    return None


def _items(found: Any, path: Sequence[str], *, whole: bool = False) -> Iterator[Any]:
    """Yield what is at a path: the items of the list there, or the whole of it.

    What an object on the way says about all of its list (`channel_id`) is handed on to the items.
    """
    if isinstance(found, str) and path and found.lstrip().startswith("{"):
        found = json.loads(found)
    if not path:
        if whole:
            yield found
        elif isinstance(found, list):
            yield from found
        return
    step, *rest = path
    match found:
        case list() if step == "*":
            for each in found:
                yield from (_with(each, item) for item in _items(each, rest, whole=whole))
        case list() if step.isdigit() and int(step) < len(found):
            yield from _items(found[int(step)], rest, whole=whole)
        case dict() if step in found:
            yield from _items(found[step], rest, whole=whole)
        case _:  # nothing is there
            return


def _with(outer: Any, item: Any) -> Any:
    if not isinstance(outer, Mapping) or not isinstance(item, Mapping):
        return item
    return {name: value for name, value in outer.items() if isinstance(value, str | int)} | dict(item)
