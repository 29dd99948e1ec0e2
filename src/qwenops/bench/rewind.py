"""From where a run in virtual time is continued: the last moment at which nothing was in flight.

A server that forgets everything when it falls idle (`SimulatedOptions.regenerates`) is at such a moment what it was at
the beginning, so what comes after it is the same whether or not the run was stopped in between. What the journals hold
of later requests is cut off, and sent again at its own time.

* Open loop: who is sent when stands in the schedule. The moment is the end of the last of the first `count` requests,
  if all of them were over before the next one was due.
* Closed loop: every caller must be resting, with an answer behind it and a time at which it goes on.
* Else it is the beginning of the segment, because no segment ends before its last request.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenops.bench.drive import rest_ns
from qwenops.bench.folder import RunFolder, read_lines, record_of, segment_of
from qwenops.bench.record import Failure, RequestRecord
from qwenops.bench.segment import ClosedLoop, OpenLoop, Segment
from qwenops.bench.simulated.engine import SimulatedEngine
from qwenops.bench.target import Target
from qwenops.text import Text, say


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleMoment:
    """A moment of the segment that was under way at which nothing was in flight."""

    at_ns: int
    """In the run's own time."""
    count: int = 0
    """Positions that were over by then: the first ones."""
    resting: Mapping[int, int] = field(default_factory=dict)
    """Of a closed loop: until when each caller rests, in the run's own time."""


def forgets(targets: Mapping[str, Target]) -> bool:
    """Whether every target is as new whenever it is idle."""
    return all(
        isinstance(each.engine, SimulatedEngine) and each.engine.simulated.server.regenerates
        for each in targets.values()
    )


def rewind(folder: RunFolder, *, possible: bool) -> tuple[IdleMoment | None, Text]:
    """Cut the journals of a run back to the last moment at which nothing was in flight.

    Args:
        folder: The run's folder, open.
        possible: Whether the targets forget what was before such a moment; if not, the run begins anew.

    Returns:
        The moment in the segment under way (None where none is: between two, or at the beginning), and what to say.
    """
    if not possible:
        folder.clear()
        return None, say("A server with a prefix cache remembers what came before: the run begins anew.")
    began: list[dict[str, Any]] = []
    ended: dict[int, dict[str, Any]] = {}
    dropped: dict[int, dict[int, int]] = {}
    for line in read_lines(folder.path, "segments"):
        if line["event"] == "began":
            began.append(line)
        elif line["event"] == "ended" and not line["interrupted"]:
            ended[line["number"]] = line
        elif line["event"] == "dropped":
            dropped.setdefault(line["number"], {})[line["position"]] = line["at_ns"]
    if not began:
        folder.clear()
        return None, say("Nothing was sent yet: the run begins anew.")
    found = Counter(bisect([each["first_index"] for each in began], index) - 1 for index in _over(folder.path))
    number = next((each for each in range(len(began)) if not _is_whole(ended.get(each), found[each], dropped)), None)
    if number is None:
        return None, say("Every part that was begun is over; the run goes on with the next one.")
    line = began[number]
    segment, first = segment_of(line["segment"]), int(line["first_index"])
    records = {each.index - first: each for each in _records(folder.path, first)}
    if number + 1 < len(began):
        records = {each: of for each, of in records.items() if each < began[number + 1]["first_index"] - first}
    moment = idle_moment(segment, line["at_ns"], records, dropped.get(number, {}))
    if number == 0 and not moment.count:
        folder.clear()
        return None, say("There was no moment at which nothing was in flight: the run begins anew.")
    _cut(folder, number, first, moment)
    return moment, say(
        "The run goes on {seconds:.1f} s after its beginning, the last moment at which nothing was in flight; what "
        "came later is sent again.",
        seconds=moment.at_ns / 1e9,
    )


def idle_moment(
    segment: Segment, began_ns: int, records: Mapping[int, RequestRecord], dropped: Mapping[int, int]
) -> IdleMoment:
    """Return the last moment of a segment at which nothing was in flight; its beginning is one.

    Args:
        segment: The segment that was under way.
        began_ns: When it began, in the run's own time.
        records: The requests that are over, by their position in the segment; interrupted ones are not.
        dropped: The positions that were not sent, and when.
    """
    if isinstance(segment.load, OpenLoop):
        return _of_schedule(segment.load, began_ns, records, dropped)
    return _of_callers(segment.load, began_ns, records) or IdleMoment(at_ns=began_ns)


def _of_schedule(
    load: OpenLoop, began_ns: int, records: Mapping[int, RequestRecord], dropped: Mapping[int, int]
) -> IdleMoment:
    found, latest_ns = IdleMoment(at_ns=began_ns), began_ns
    for position in range(len(load.offsets_ns)):
        ended_ns = dropped.get(position, None if position not in records else records[position].ended_ns)
        if ended_ns is None:
            break
        latest_ns = max(latest_ns, ended_ns)
        count = position + 1
        if count == len(load.offsets_ns) or latest_ns < began_ns + load.offsets_ns[count]:
            found = IdleMoment(at_ns=latest_ns, count=count)
    return found


def _of_callers(load: ClosedLoop, began_ns: int, records: Mapping[int, RequestRecord]) -> IdleMoment | None:
    """Return the last moment at which all callers were resting.

    Two that go on at the same moment would need to be told apart; such a moment is passed over.
    """
    callers = load.users if load.requests is None else min(load.users, load.requests)
    latest: dict[int, RequestRecord] = {}
    found: IdleMoment | None = None
    highest = -1
    by_end = sorted(records.items(), key=lambda each: each[1].ended_ns or 0)
    for count, (position, record) in enumerate(by_end, start=1):
        if record.user is None:
            return None
        latest[record.user] = record
        highest = max(highest, position)
        if len(latest) < callers or highest >= count:
            continue
        at_ns = max(began_ns, record.ended_ns or 0)
        resting = {user: rest_ns(load, each) for user, each in latest.items()}
        rested = all(until_ns > at_ns or latest[user].ended_ns == at_ns for user, until_ns in resting.items())
        if rested and len(set(resting.values())) == len(resting):
            found = IdleMoment(at_ns=at_ns, count=count, resting=resting)
    return found


def _over(path: Path) -> Iterator[int]:
    """Yield the numbers of the requests that are over."""
    for line in read_lines(path, "requests"):
        if line.get("failure") != Failure.INTERRUPTED:
            yield line["index"]


def _is_whole(end: Mapping[str, Any] | None, records: int, dropped: Mapping[int, Mapping[int, int]]) -> bool:
    """Whether a segment has ended and nothing of it was lost, as may be when the machine goes down."""
    if end is None:
        return False
    return records + len(dropped.get(end["number"], ())) >= int(end.get("positions", 0))


def _records(path: Path, first_index: int) -> Iterator[RequestRecord]:
    for line in read_lines(path, "requests"):
        if line["index"] >= first_index and line.get("failure") != Failure.INTERRUPTED:
            yield record_of(line)


def _cut(folder: RunFolder, number: int, first_index: int, moment: IdleMoment) -> None:
    """Take from the journals what came after the moment."""

    def of_segments(line: Mapping[str, Any]) -> bool:
        at = line.get("number", 0)
        if at < number or (at == number and line["event"] == "began"):
            return True
        if at > number:
            return False
        return bool(line["event"] == "dropped" and line["position"] < moment.count)

    keeps: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
        "requests": lambda line: line["index"] < first_index + moment.count,
        "segments": of_segments,
        "host": lambda line: line["at_ns"] <= moment.at_ns,
        "engine": lambda line: line["at_ns"] <= moment.at_ns,
    }
    folder.keep(keeps)
