"""What columns and keys are called in people's files, and how the values in them are written."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import Any

from qwenops.errors import ConfigError
from qwenops.text import say


class Column(StrEnum):
    """What a column can mean to us."""

    ID = "conversation_id"
    TEXT = "text"
    ROLE = "role"
    CATEGORY = "category"
    SECONDARY = "secondary"
    SCORE = "score"
    ANNOTATOR = "annotator"
    NOTE = "note"
    CUSTOMER = "customer_id"
    AGENT = "agent_id"
    STARTED = "started_at"
    DURATION = "duration"
    CHANNEL = "channel"
    LANG = "lang"
    BEGIN = "t0"
    END = "t1"
    CONF = "conf"
    META = "metadata"


_NAMES: Mapping[Column, str] = {
    Column.ID: (
        "conversation_id conversationid conversation call_id callid call session_id sessionid session id uuid "
        "ticket_id 通话编号 通话id 通话流水号 流水号 会话编号 会话id 录音编号 录音流水号 录音id "
        "工单编号 工单号 编号 单号"
    ),
    Column.TEXT: (
        "input_text text transcript transcription content dialogue dialog conversation_text call_text utterance "
        "sentence body narrative 内容 文本 通话内容 通话文本 对话内容 对话文本 转写 转写文本 转写内容 转写结果 "
        "识别文本 识别结果 语音文本 录音文本 投诉内容 客户诉求 诉求内容 说话内容 话术 原文"
    ),
    Column.ROLE: "role speaker speaker_role participant who 角色 说话人 发言人 讲话人 说话人角色 身份",
    Column.CATEGORY: (
        "complaint_category category label class primary complaint_type labels 类别 分类 标签 投诉类别 投诉分类 "
        "投诉类型 问题类型 问题分类 业务分类 工单分类 投诉原因 类型"
    ),
    Column.SECONDARY: "secondary secondary_category 次要类别 次类别 第二类别",
    Column.SCORE: "confidence_score weight confidence score 置信度 标注置信度 权重 可信度",
    Column.ANNOTATOR: "annotator labeler labeller annotated_by 标注人 标注员 标注者",
    Column.NOTE: "note notes comment remark 备注",
    Column.CUSTOMER: (
        "customer_id customerid customer user_id userid caller caller_id client_id 客户编号 客户id 用户编号 用户id "
        "客户号 客户号码 用户号码 主叫号码 主叫 来电号码 手机号 手机号码"
    ),
    Column.AGENT: (
        "agent_id agentid agent operator operator_id staff_id 坐席 坐席工号 坐席编号 坐席id 座席 座席工号 客服工号 "
        "客服编号 客服 工号 话务员 受理人"
    ),
    Column.STARTED: (
        "started_at start_time starttime call_time calltime timestamp datetime date time created_at begin_time "
        "通话时间 开始时间 通话开始时间 来电时间 受理时间 呼叫时间 时间 日期 通话日期 创建时间"
    ),
    Column.DURATION: "duration duration_s call_duration talk_time 时长 通话时长 录音时长",
    Column.CHANNEL: "channel 渠道 来源 受理渠道",
    Column.LANG: "lang language 语言 语种",
    Column.BEGIN: "t0 begin start offset 起始 起始时间 句子开始",
    Column.END: "t1 end stop 结束 结束时间 句子结束",
    Column.CONF: "conf asr_confidence 识别置信度",
    Column.META: "metadata meta extra 附加信息 扩展信息 元数据",
}
_UNIT = re.compile(r"[(\[\u3010\uff08][^()\[\]]*[)\]\u3011\uff09]")
_SPACE = re.compile(r"[\s_\-.:\uff1a*]+")

_DATE = re.compile(
    r"(\d{4})[-/.\u5e74](\d{1,2})[-/.\u6708](\d{1,2})\u65e5?"
    r"(?:[T\s]*(\d{1,2})[:\uff1a\u65f6\u70b9](\d{1,2})(?:[:\uff1a\u5206](\d{1,2})(?:[.,](\d{1,9}))?)?[\u5206\u79d2]?)?"
    r"\s*(Z|[+-]\d{2}:?\d{2})?",
    re.IGNORECASE,
)
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:[T_]?(\d{2})(\d{2})(\d{2})?)?")
_CLOCK = re.compile(r"(?:(\d{1,3})(?:小?时|:))?(\d{1,4})[:分](\d{1,2}(?:\.\d+)?)秒?")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(?:s|sec|seconds|秒)?", re.IGNORECASE)
_FIRST_OF_SERIALS = datetime(1899, 12, 30, tzinfo=UTC)
_SERIALS = (20_000.0, 80_000.0)
"""Days that spreadsheets count, from 1954 to 2119."""
_UNIX_S, _UNIX_MS = (6e8, 5e9), (6e11, 5e12)
_LOST_DIGITS = re.compile(r"\d(?:\.\d+)?[eE]\+\d{2,3}")
_MOST_DIGITS = 10**15
"""A spreadsheet keeps 15 digits of a number."""
_BROKEN = frozenset({"#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!"})
"""What a spreadsheet shows where a formula has no value."""
_MEANINGS = tuple(each.value for each in Column)
_NAMES_SHOWN = 4
HEADER_ROWS = 20
"""So many rows may stand above the names of columns."""


def plain_name(name: str) -> str:
    """Return the name of a column as it is compared: without case, width, spacing and unit."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return _SPACE.sub("", _UNIT.sub("", plain))


_KNOWN: Mapping[str, Column] = {plain_name(name): column for column, names in _NAMES.items() for name in names.split()}
_RANKS: Mapping[str, int] = {
    plain_name(name): rank for names in _NAMES.values() for rank, name in enumerate(names.split())
}


def told_columns(told: Sequence[str]) -> dict[str, Column]:
    """Read what the user says about columns: `text=通话全文`.

    Raises:
        ConfigError: It is no such sentence.
    """
    found = {}
    for each in told:
        meaning, _, name = (part.strip() for part in each.partition("="))
        if meaning not in _MEANINGS or not name:
            raise ConfigError(
                say("{told!r} says of no column what it means.", told=each),
                hint=say("Write for example text=通话全文. Possible: {possible}.", possible=", ".join(_MEANINGS)),
            )
        found[plain_name(name)] = Column(meaning)
    return found


def columns_of(names: Sequence[str], told: Mapping[str, Column]) -> tuple[Column | None, ...]:
    """Return what each column means: by what the user says, else by its name; None where it means nothing to us.

    Of several columns with one meaning that has it which the user names, else the one with the clearest name.
    """
    plain = [plain_name(name) for name in names]

    def rank(place: int) -> int:
        return -1 if plain[place] in told else _RANKS[plain[place]]

    best: dict[Column, int] = {}
    for place, name in enumerate(plain):
        meaning = told.get(name) or _KNOWN.get(name)
        if meaning is not None and (meaning not in best or rank(place) < rank(best[meaning])):
            best[meaning] = place
    meanings = {place: meaning for meaning, place in best.items()}
    return tuple(meanings.get(place) for place in range(len(names)))


def possible_names(column: Column) -> str:
    """Return what a column may be called, for messages: the usual names in English and in Chinese."""
    names = _NAMES[column].split()
    english, chinese = [name for name in names if name.isascii()], [name for name in names if not name.isascii()]
    return ", ".join(english[:_NAMES_SHOWN] + chinese[:_NAMES_SHOWN])


def words(value: object) -> str:
    """Return a value as text: whole numbers without a point, nothing for an empty or broken cell."""
    match value:
        case None:
            return ""
        case str():
            return "" if value.strip() in _BROKEN else value
        case float() if value.is_integer() and abs(value) < _MOST_DIGITS:
            return str(int(value))
        case datetime():
            return value.isoformat(" ")
        case _:
            return str(value)


def json_value(value: object) -> Any:
    """Return a value as JSON can hold it."""
    return value if isinstance(value, str | int | float | list | dict) or value is None else words(value)


def has_lost_digits(value: object) -> bool:
    """Whether an id was taken for a number by a spreadsheet, which keeps 15 digits."""
    if isinstance(value, str):
        return _LOST_DIGITS.fullmatch(value.strip()) is not None
    return isinstance(value, int | float) and abs(value) >= _MOST_DIGITS


def number(value: object) -> float:
    """Return a value as a number; `87%` is 0.87.

    Raises:
        ValueError: It is none.
    """
    match value:
        case bool():
            raise ValueError(value)
        case int() | float():
            found = float(value)
        case str():
            text = unicodedata.normalize("NFKC", value).strip()
            found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        case _:
            raise ValueError(value)
    if not math.isfinite(found):
        raise ValueError(value)
    return found


def seconds(value: object) -> float:
    """Return a length of time in seconds: a number, `05:12`, `1:05:12`, `5分12秒`, or what a spreadsheet makes of it.

    Raises:
        ValueError: It is none.
    """
    match value:
        case timedelta():
            return value.total_seconds()
        case time():
            return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
        case str():
            text = unicodedata.normalize("NFKC", value).strip()
            if (clock := _CLOCK.fullmatch(text)) is not None:
                return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
            if (plain := _SECONDS.fullmatch(text)) is not None:
                return float(plain[1])
            raise ValueError(value)
        case _:
            return number(value)


def moment(value: object, zone: tzinfo | None) -> datetime:
    """Return a moment: ISO, `2026/3/1 9:12`, `2026年3月1日 9:12`, `20260301091200`, a spreadsheet's number, Unix time.

    Day and month are never guessed: `03/04/2026` is refused.

    Args:
        value: As it stands in the file.
        zone: The time zone of what names none; None leaves it without.

    Raises:
        ValueError: It is none.
    """
    match value:
        case datetime():
            return value if value.tzinfo else value.replace(tzinfo=zone)
        case date():
            return datetime(value.year, value.month, value.day, tzinfo=zone)
        case bool():
            raise ValueError(value)
        case int() | float():
            return _counted(float(value), zone)
        case str():
            return _written(unicodedata.normalize("NFKC", value).strip(), zone)
        case _:
            raise ValueError(value)


def _written(text: str, zone: tzinfo | None) -> datetime:
    compact = _compact(text, zone)
    if compact is not None:
        return compact
    if (found := _DATE.fullmatch(text)) is None:
        return _counted(float(text), zone)
    *parts, fraction, offset = found.groups()
    year, month, day, hour, minute, second = (int(each or 0) for each in parts)
    micro = int((fraction or "0")[:6].ljust(6, "0"))
    return datetime(year, month, day, hour, minute, second, micro, tzinfo=_offset(offset) or zone)


def _compact(text: str, zone: tzinfo | None) -> datetime | None:
    found = _COMPACT.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(each or 0) for each in found.groups())
    return datetime(year, month, day, hour, minute, second, tzinfo=zone)


def _counted(value: float, zone: tzinfo | None) -> datetime:
    """Return the moment that a number stands for: days of a spreadsheet, Unix time, or a date written in digits."""
    if _SERIALS[0] <= value < _SERIALS[1]:
        return (_FIRST_OF_SERIALS + timedelta(seconds=round(value * 86_400))).replace(tzinfo=zone)
    for (low, high), unit_s in ((_UNIX_S, 1.0), (_UNIX_MS, 0.001)):
        if low <= value < high:
            return datetime.fromtimestamp(value * unit_s, tz=zone or UTC)
    found = _compact(str(int(value)), zone) if value.is_integer() else None
    if found is None:
        raise ValueError(value)
    return found


def _offset(text: str | None) -> tzinfo | None:
    if text is None:
        return None
    if text in "Zz":
        return UTC
    ahead = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-ahead if text.startswith("-") else ahead)
