"""Files for the tests of readers, and what is read of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenops.calls.classes import Class, Taxonomy, Words
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.readers import Entry, Format, ReadOptions, open_calls
from qwenops.calls.schema import Role

TAXONOMY = Taxonomy(
    name="test",
    version=2,
    title=Words(zh="测试", en="Test"),
    classes={
        "billing": Class(
            code="billing", name=Words(zh="收费争议", en="Billing"), children=("billing.fee", "billing.refund")
        ),
        "billing.fee": Class(code="billing.fee", name=Words(zh="资费争议", en="Plan fee"), parent="billing"),
        "billing.refund": Class(code="billing.refund", name=Words(zh="退费", en="Refund"), parent="billing"),
        "network": Class(code="network", name=Words(zh="网络质量", en="Network")),
    },
    leaves=("billing.fee", "billing.refund", "network"),
    path=Path("test.yaml"),
    sha256="",
)
DIALOGUE = "客服：您好，请问有什么可以帮您\n客户：你们多扣了我两个月彩铃费"
SAID = (
    (Role.AGENT, "您好，请问有什么可以帮您"),
    (Role.CUSTOMER, "你们多扣了我两个月彩铃费"),
)


def written(path: Path, values: Sequence[Mapping[str, Any]], *, as_list: bool = False) -> Path:
    """Write objects as lines of JSON, or as one list."""
    lines = [json.dumps(each, ensure_ascii=False) for each in values]
    path.write_text(f"[{', '.join(lines)}]" if as_list else "".join(f"{line}\n" for line in lines), "utf-8")
    return path


def read(path: Path, **options: Any) -> tuple[list[Entry], list[Problem], Format]:
    """Read a file with the taxonomy of these tests."""
    reading = open_calls(path, taxonomy=TAXONOMY, options=ReadOptions(**options))
    return list(reading), reading.problems, reading.format


def said(entry: Entry) -> tuple[tuple[Role, str], ...]:
    """Return who says what."""
    return tuple((turn.role, turn.text) for turn in entry.call.turns)


def errors(problems: Sequence[Problem]) -> list[tuple[int | None, str]]:
    """Return lines and fields of errors."""
    return [(each.line, each.field) for each in problems if each.severity is Severity.ERROR]


def warnings(problems: Sequence[Problem]) -> list[tuple[int | None, str]]:
    """Return lines and fields of warnings."""
    return [(each.line, each.field) for each in problems if each.severity is Severity.WARNING]
