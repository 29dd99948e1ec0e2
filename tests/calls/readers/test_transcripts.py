import json
from pathlib import Path
from typing import Any

import pytest

from qwenops.calls.readers import Format
from qwenops.calls.schema import Role
from tests.calls.readers.reading import SAID, errors, read, said, warnings, written

HELLO, CHARGED = (text for _, text in SAID)
LATTICE = {
    "lattice": [
        {
            "json_1best": json.dumps(
                {
                    "st": {
                        "bg": str(begin),
                        "ed": str(end),
                        "rl": str(role),
                        "rt": [{"ws": [{"cw": [{"w": part, "wp": kind}]} for part, kind in ((text, "n"), ("", "g"))]}],
                    }
                }
            )
        }
        for begin, end, role, text in ((500, 2500, 1, HELLO), (3000, 9800, 2, CHARGED))
    ]
}
TRANSCRIPTS: dict[str, tuple[Format, dict[str, Any]]] = {
    "funasr": (
        Format.FUNASR,
        {
            "key": "rand_key_2yW4Acq9GFz6Y",
            "text": HELLO + CHARGED,
            "sentence_info": [
                {"text": HELLO, "start": 500, "end": 2500, "timestamp": [[500, 2500]], "spk": 0},
                {"text": CHARGED, "start": 3000, "end": 9800, "timestamp": [[3000, 9800]], "spk": 1},
            ],
        },
    ),
    "aliyun": (
        Format.CLOUD_TRANSCRIPT,
        {
            "StatusText": "SUCCESS",
            "Result": {
                "Sentences": [
                    {"EndTime": 9800, "BeginTime": 3000, "ChannelId": 1, "Text": CHARGED, "EmotionValue": 6.5},
                    {"EndTime": 2500, "BeginTime": 500, "ChannelId": 0, "Text": HELLO, "EmotionValue": 5.0},
                ]
            },
        },
    ),
    "dashscope": (
        Format.CLOUD_TRANSCRIPT,
        {
            "properties": {"channels": [0, 1]},
            "transcripts": [
                {"channel_id": 0, "text": HELLO, "sentences": [{"begin_time": 500, "end_time": 2500, "text": HELLO}]},
                {
                    "channel_id": 1,
                    "text": CHARGED,
                    "sentences": [{"begin_time": 3000, "end_time": 9800, "text": CHARGED}],
                },
            ],
        },
    ),
    "tencent": (
        Format.CLOUD_TRANSCRIPT,
        {
            "Response": {
                "RequestId": "r",
                "Data": {
                    "ResultDetail": [
                        {"FinalSentence": HELLO, "StartMs": 500, "EndMs": 2500, "SpeakerId": 0},
                        {"FinalSentence": CHARGED, "StartMs": 3000, "EndMs": 9800, "SpeakerId": 1},
                    ]
                },
            }
        },
    ),
    "huawei": (
        Format.CLOUD_TRANSCRIPT,
        {
            "status": "FINISHED",
            "segments": [
                {
                    "start_time": 500,
                    "end_time": 2500,
                    "result": {"text": HELLO, "score": 0.9, "analysis_info": {"role": "AGENT"}},
                },
                {
                    "start_time": 3000,
                    "end_time": 9800,
                    "result": {"text": CHARGED, "score": 0.7, "analysis_info": {"role": "USER"}},
                },
            ],
        },
    ),
    "volcengine": (
        Format.CLOUD_TRANSCRIPT,
        {
            "result": [
                {
                    "text": HELLO + CHARGED,
                    "utterances": [
                        {"text": HELLO, "start_time": 500, "end_time": 2500, "additions": {"speaker": "1"}},
                        {"text": CHARGED, "start_time": 3000, "end_time": 9800, "additions": {"speaker": "2"}},
                    ],
                }
            ]
        },
    ),
    "iflytek": (Format.CLOUD_TRANSCRIPT, {"code": "000000", "content": {"orderResult": json.dumps(LATTICE)}}),
    "aws": (
        Format.CLOUD_TRANSCRIPT,
        {
            "Transcript": [
                {"ParticipantRole": "AGENT", "BeginOffsetMillis": 500, "EndOffsetMillis": 2500, "Content": HELLO},
                {"ParticipantRole": "CUSTOMER", "BeginOffsetMillis": 3000, "EndOffsetMillis": 9800, "Content": CHARGED},
            ]
        },
    ),
    "aws results": (
        Format.CLOUD_TRANSCRIPT,
        {
            "results": {
                "transcripts": [{"transcript": HELLO + CHARGED}],
                "audio_segments": [
                    {"transcript": HELLO, "start_time": "0.5", "end_time": "2.5", "speaker_label": "spk_0"},
                    {"transcript": CHARGED, "start_time": "3.0", "end_time": "9.8", "speaker_label": "spk_1"},
                ],
            }
        },
    ),
    "azure": (
        Format.CLOUD_TRANSCRIPT,
        {
            "recognizedPhrases": [
                {
                    "channel": channel,
                    "offsetInTicks": begin * 1e7,
                    "durationInTicks": length * 1e7,
                    "nBest": [{"confidence": 0.8, "display": text}],
                }
                for channel, begin, length, text in ((0, 0.5, 2.0, HELLO), (1, 3.0, 6.8, CHARGED))
            ]
        },
    ),
    "google": (
        Format.CLOUD_TRANSCRIPT,
        {
            "results": [
                {
                    "alternatives": [{"transcript": text, "confidence": 0.8, "words": [{"startTime": begin}]}],
                    "channelTag": channel,
                    "resultEndTime": end,
                }
                for channel, begin, end, text in ((1, "0.500s", "2.500s", HELLO), (2, "3s", "9.800s", CHARGED))
            ]
        },
    ),
    "whisper": (
        Format.CLOUD_TRANSCRIPT,
        {
            "language": "zh",
            "segments": [
                {"start": 0.5, "end": 2.5, "text": HELLO, "speaker": "SPEAKER_00"},
                {"start": 3.0, "end": 9.8, "text": CHARGED, "speaker": "SPEAKER_01"},
            ],
        },
    ),
}


@pytest.mark.parametrize("service", list(TRANSCRIPTS))
def test_a_transcript_of_every_service_becomes_a_call(tmp_path: Path, service: str) -> None:
    kind, document = TRANSCRIPTS[service]
    path = tmp_path / "call-17.json"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), "utf-8")
    (entry,), problems, found = read(path)
    assert (found, problems) == (kind, [])
    assert said(entry) == SAID
    assert [(turn.t0, turn.t1) for turn in entry.call.turns] == [(0.5, 2.5), (3.0, 9.8)]
    assert entry.call.conversation_id == "call-17"
    assert entry.call.duration_s == 9.8
    assert entry.call.asr is not None
    assert entry.call.asr.engine == service.split(maxsplit=1)[0]
    assert entry.label is None


@pytest.mark.parametrize("as_list", [True, False])
def test_many_transcripts_may_stand_in_one_file(tmp_path: Path, as_list: bool) -> None:  # noqa: FBT001 -- a parameter
    documents = [TRANSCRIPTS["funasr"][1] | {"key": f"call-{number}"} for number in range(3)]
    path = written(tmp_path / "calls.json", documents, as_list=as_list)
    found, problems, kind = read(path)
    assert [each.call.conversation_id for each in found] == ["call-0", "call-1", "call-2"]
    assert (kind, problems) == (Format.FUNASR, [])


def test_a_call_is_called_by_its_recording_where_that_is_said(tmp_path: Path) -> None:
    document = TRANSCRIPTS["dashscope"][1] | {"file_url": "https://example.com/a/call-42.wav?x=1"}
    (entry,), _, _ = read(written(tmp_path / "x.jsonl", [document]))
    assert entry.call.conversation_id == "call-42"


def test_a_transcript_without_speakers_is_one_turn_and_its_tags_are_gone(tmp_path: Path) -> None:
    document = {"key": "call-1", "text": "<|zh|><|NEUTRAL|><|Speech|><|withitn|>多扣了我 十五块", "timestamp": []}
    (entry,), problems, kind = read(written(tmp_path / "x.json", [document]))
    assert (kind, problems) == (Format.FUNASR, [])
    assert said(entry) == ((Role.UNKNOWN, "多扣了我十五块"),)


def test_the_offline_service_of_funasr_is_read(tmp_path: Path) -> None:
    document = {
        "mode": "offline",
        "wav_name": "call-3.wav",
        "text": "我要投诉。",
        "stamp_sents": [{"text_seg": "我 要 投 诉", "punc": "。", "start": 880, "end": 2000, "ts_list": [[880, 1120]]}],
    }
    (entry,), problems, _ = read(written(tmp_path / "x.json", [document]))
    assert (entry.call.conversation_id, said(entry), problems) == ("call-3", ((Role.UNKNOWN, "我要投诉。"),), [])


def test_speakers_whom_nobody_knows_are_said_and_can_be_told(tmp_path: Path) -> None:
    sentences = [{"text": text, "start": 0, "end": 1, "spk": spk} for spk, text in ((0, "喂"), (1, "你好"))]
    path = written(tmp_path / "x.json", [{"sentence_info": sentences}])
    (entry,), problems, _ = read(path)
    assert {turn.role for turn in entry.call.turns} == {Role.UNKNOWN}
    assert warnings(problems) == [(1, "text")]
    assert "--speaker 0=agent" in problems[0].what
    (entry,), problems, _ = read(path, speakers=("0=customer", "1=agent"))
    assert [turn.role for turn in entry.call.turns] == [Role.CUSTOMER, Role.AGENT]
    assert problems == []


def test_confidences_are_shares_and_their_mean_is_kept(tmp_path: Path) -> None:
    (entry,), _, _ = read(written(tmp_path / "x.json", [TRANSCRIPTS["huawei"][1]]))
    assert [turn.conf for turn in entry.call.turns] == [0.9, 0.7]
    assert entry.call.asr is not None
    assert entry.call.asr.mean_conf == 0.8
    percent = {"sentence_info": [{"text": "喂", "start": 0, "end": 1, "confidence": 88}]}
    (entry,), _, _ = read(written(tmp_path / "y.json", [percent]))
    assert entry.call.turns[0].conf == 0.88


@pytest.mark.parametrize(
    "broken",
    [
        {"segments": [{"result": "{broken"}]},
        {"segments": [{"text": None}]},
        {"segments": "x"},
        {"content": {"orderResult": "{"}},
        {"content": {"orderResult": '{"lattice": [{"json_1best": "{"}]}'}},
        {"content": {"orderResult": '{"lattice": [{"json_1best": {"st": {"rt": [{"ws": [{"cw": "x"}]}]}}}]}'}},
        {"recognizedPhrases": [{"nBest": []}]},
        {"Transcript": [1, None, []]},
    ],
)
def test_a_broken_transcript_is_an_error_and_no_crash(tmp_path: Path, broken: dict[str, Any]) -> None:
    path = written(tmp_path / "x.jsonl", [broken, TRANSCRIPTS["aws"][1]])
    found, problems, _ = read(path, format=Format.CLOUD_TRANSCRIPT)
    assert len(found) == 1
    assert [line for line, _ in errors(problems)] == [1]
