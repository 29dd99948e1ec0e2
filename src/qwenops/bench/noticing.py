"""What turns out about a server only while it is asked: fields it does not know, connections it does not keep.

Engines learn that from refusals, after the manifest was written. Each thing is noticed with its time, goes into the
manifest's end and the findings, and makes a run doubtful where requests before and after it were not alike.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenops.bench.conclusion import Finding, crossed, uncrossed
from qwenops.bench.record import NS_PER_S, Phase, RequestRecord
from qwenops.bench.target import Target
from qwenops.text import Text, say

LEARNING = frozenset({"openai", "ollama"})
"""Kinds of targets whose engine learns while it is asked."""
DECISIVE: Mapping[str, Text] = {
    "ignore_eos": say(
        "The server does not know ignore_eos: answers end where the model ends them, whatever force_length says."
    ),
    "chat_template_kwargs": say(
        "The server does not know chat_template_kwargs: whether the model thinks is up to the server, whatever "
        "thinking says."
    ),
    "stream_options": say(
        "The server does not know stream_options: where it does not count its tokens by itself, chunks are counted."
    ),
}
"""Fields without which an answer, or what is known about it, is another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing that turned out."""

    name: str
    """The field that is left out, or the name of the engine's note."""
    text: str
    at_ns: int
    """Since the run's origin."""
    target: str = ""
    doubtful: bool = False
    """Whether measured requests before it were asked otherwise than those after it."""


class Noticing:
    """Looks at the engines of a run after each request.

    Args:
        targets: What is measured, by name.
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        """Begin with what is known of the engines now."""
        self._learning = {name: each.engine for name, each in targets.items() if each.kind in LEARNING}
        self._notes = {name: dict(engine.info.notes) for name, engine in self._learning.items()}
        self._left_out = {name: set(engine.info.left_out) for name, engine in self._learning.items()}
        self._measured: Counter[str] = Counter()
        self.notices: list[Notice] = []

    def recall(self, past: Sequence[Mapping[str, Any]]) -> None:
        """Take over what earlier sittings noticed, as the manifest has it."""
        self.notices += [_notice_of(each) for each in past]

    def look(self, record: RequestRecord) -> None:
        """See what the engine has learned by the end of a request."""
        engine = self._learning.get(record.target)
        if engine is None:
            return
        info, at_ns = engine.info, record.ended_ns or 0
        measured = record.phase is not Phase.WARMUP
        doubtful = measured and (record.tries > 1 or self._measured[record.target] > 0)
        self._measured[record.target] += measured
        for field in sorted(set(info.left_out) - self._left_out[record.target]):
            self._left_out[record.target].add(field)
            self.notice_left_out(field, at_ns, target=record.target, doubtful=doubtful)
        for name, text in info.notes.items():
            if name != "left_out" and self._notes[record.target].get(name) != text:
                self._notes[record.target][name] = text
                self.notices.append(Notice(name=name, text=text, at_ns=at_ns, target=record.target))

    def notice_left_out(self, field: str, at_ns: int, *, target: str = "", doubtful: bool = False) -> None:
        """Take note that requests go without a field from now on."""
        text = DECISIVE.get(field) or say("The server does not know {field}; requests go without.", field=field)
        self.notices.append(
            Notice(name=field, text=text, at_ns=at_ns, target=target, doubtful=doubtful and field in DECISIVE)
        )

    def findings(self) -> tuple[Finding, ...]:
        """Return what was noticed, for a conclusion."""
        return tuple(
            Finding(text=each.text, severity="warning" if each.name in DECISIVE else "info", from_ns=each.at_ns)
            for each in self.notices
        )

    def doubts(self) -> tuple[Text, ...]:
        """Return why the figures are doubtful; nothing where all measured requests were asked alike."""
        return tuple(
            say(
                "The server refused {field} while it was measured, and was asked without it from {seconds:.1f} s on: "
                "the answers before and after are not alike.",
                field=each.name,
                seconds=each.at_ns / NS_PER_S,
            )
            for each in self.notices
            if each.doubtful
        )

    def data(self) -> list[dict[str, Any]]:
        """Return what was noticed, for the manifest."""
        return [
            {
                "name": each.name,
                "text": crossed(each.text),
                "at_ns": each.at_ns,
                "target": each.target,
                "doubtful": each.doubtful,
            }
            for each in self.notices
        ]


def _notice_of(data: Mapping[str, Any]) -> Notice:
    return Notice(**{**data, "text": uncrossed(data["text"])})
