"""Open a run's folder: a new one, or one that an earlier sitting left behind, so that the command goes on where it was.

In real time, segments that are over are answered from the journal, the one that was under way goes on with the
requests that have no record, and the run's own time goes on where the last line left it. In virtual time a run goes on
at the last moment at which nothing was in flight (`rewind.py`), and equals one that was never disturbed.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwenops.bench.clock import Clock
from qwenops.bench.counted import Counted
from qwenops.bench.folder import (
    MANIFEST_FILE,
    RunFolder,
    last_seen_ns,
    read_lines,
    read_manifest,
    read_records,
    segment_data,
)
from qwenops.bench.manifest import options_data
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Failure, RequestRecord
from qwenops.bench.rewind import IdleMoment, rewind
from qwenops.bench.segment import Driven, Segment
from qwenops.bench.simulated.loop import VirtualClock
from qwenops.bench.validity import Validity, Verdict, validity_data, validity_of, worse_of
from qwenops.errors import RunFolderError
from qwenops.text import Text, say


def _silent() -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a run is opened, besides what is measured."""

    out: Path | None = None
    """The run's folder by name (`--out`); else a new one in `options.folder`."""
    resume_from: Path | None = None
    command: tuple[str, ...] = ()
    """As it was typed, for the manifest; must hold no secret."""
    calibrate_s: float = 3.0
    """How long the client measures itself first; never in virtual time."""
    announce: Callable[[], None] = _silent
    """Is called before the client measures itself."""
    tick_s: float = 0.5
    """How often the listener is told."""
    stop: asyncio.Event | None = None
    """Ends the run early, also while the client still measures itself; without one the run makes its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastSegment:
    """A segment that was begun in an earlier sitting."""

    name: str
    data: Mapping[str, Any]
    """As `folder.segment_data` wrote it."""
    target: str
    began_ns: int
    first_index: int
    dropped: frozenset[int]
    """Positions that were not sent because too many were in flight."""
    end: Mapping[str, Any] | None
    """Its last line; None when it was under way."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do in it."""
        return self.end is not None and not self.end["interrupted"]

    def check(self, segment: Segment, target: str) -> None:
        """Make sure that it is the segment that is to be driven now.

        Raises:
            RunFolderError: It is another one.
        """
        if segment_data(segment) != dict(self.data) or target != self.target:
            raise RunFolderError(
                say(
                    "The run in this folder went another way: it had {old!r} where {new!r} is due.",
                    old=self.name,
                    new=segment.name,
                ),
                hint=say("Continue it with the command and the options that it was begun with."),
            )

    def driven(self, segment: Segment, records: tuple[RequestRecord, ...]) -> Driven:
        """Return what came of it; only for one that is over."""
        assert self.end is not None  # noqa: S101 -- the caller asked `is_over`
        return Driven(
            segment=segment,
            began_ns=self.began_ns,
            window_ns=self.end["window_ns"],
            ended_ns=self.end["at_ns"],
            records=records,
            dropped=len(self.dropped),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """All that earlier sittings of a run left."""

    segments: tuple[PastSegment, ...]
    """In order; only the last one can be under way."""
    last_seen_ns: int
    """The run's own time when it was last alive; 0 in virtual time, which passes anew through what is over."""
    moment: IdleMoment | None = None
    """In virtual time: where the segment under way goes on."""
    note: Text | None = None
    """From where it is continued, in words."""

    def records(self, path: Path, number: int) -> Iterator[RequestRecord]:
        """Yield the records of a segment, in the order in which they ended; those of interrupted requests too."""
        first = self.segments[number].first_index
        later = self.segments[number + 1 :]
        last = later[0].first_index if later else None
        for record in read_records(path):
            if first <= record.index and (last is None or record.index < last):
                yield record

    def over(self, path: Path, number: int) -> frozenset[int]:
        """Return the positions in a segment that are not to be sent any more."""
        past = self.segments[number]
        sent = {
            record.index - past.first_index
            for record in self.records(path, number)
            if record.failure is not Failure.INTERRUPTED
        }
        return past.dropped | sent


def read_past(path: Path) -> Past:
    """Read what earlier sittings left in a run's folder.

    Raises:
        RunFolderError: The folder is damaged.
    """
    began: list[dict[str, Any]] = []
    ended: dict[int, dict[str, Any]] = {}
    dropped: dict[int, set[int]] = {}
    for line in read_lines(path, "segments"):
        match line["event"]:
            case "began":
                began.append(line)
            case "ended":
                ended[line["number"]] = line
            case "dropped":
                dropped.setdefault(line["number"], set()).add(line["position"])
    return Past(
        segments=tuple(
            PastSegment(
                name=line["segment"]["name"],
                data=line["segment"],
                target=line["target"],
                began_ns=line["at_ns"],
                first_index=line["first_index"],
                dropped=frozenset(dropped.get(line["number"], ())),
                end=ended.get(line["number"]),
            )
            for line in began
        ),
        last_seen_ns=last_seen_ns(path),
    )


def salt_of(new: Mapping[str, Any], opening: Opening) -> str:
    """Return the salt of the prompts: that of the run that is continued, else a new one."""
    path = opening.resume_from
    return str(new["salt"] if path is None else read_manifest(path)["salt"])


def open_folder(
    manifest: dict[str, Any], options: BenchOptions, opening: Opening, *, forgetful: bool = False
) -> tuple[RunFolder, dict[str, Any], Past | None]:
    """Make a run's folder, or open the one that is continued.

    Args:
        manifest: What is to be measured now.
        options: How; they say where runs are written.
        opening: Whether it is a new run.
        forgetful: Whether the targets are as new whenever they are idle; else a run in virtual time begins anew.

    Returns:
        The folder, the manifest that holds from now on, and what an earlier sitting left.

    Raises:
        RunFolderError: The folder is in use, damaged, or of another run.
        InvalidRunError: Records of a part that was over are missing; a run in virtual time makes them anew.
        InsufficientDiskError: There is no room for it.
    """
    path = opening.resume_from
    if path is None:
        return RunFolder.create(opening.out or _fresh(options.folder, manifest), manifest), manifest, None
    earlier = read_manifest(path)
    _check_same(earlier, manifest, path)
    folder = RunFolder.open(path)
    try:
        if manifest["virtual"]:
            moment, note = rewind(folder, possible=forgetful)
            past = replace(read_past(path), last_seen_ns=0, moment=moment, note=note)
            return folder, manifest | {"salt": earlier["salt"]}, past
        _check_counted(path)
        past = read_past(path)
    except BaseException:
        folder.close()
        raise
    sitting = {"wall_ns": manifest["began_wall_ns"], "command": manifest["command"], "versions": manifest["versions"]}
    kept = {name: value for name, value in earlier.items() if name not in _OF_THE_END}
    kept[PAST_VALIDITY] = validity_data(_judged_before(earlier, past))
    return folder, kept | {"state": "running", "sittings": [*earlier.get("sittings", []), sitting]}, past


def _check_counted(path: Path) -> None:
    counted = Counted(list(read_lines(path, "segments")))
    for _ in counted.passed(read_records(path)):
        pass
    counted.check(path)


def is_finished(manifest: Mapping[str, Any], verb: str, targets: Mapping[str, str], options: BenchOptions) -> bool:
    """Whether a run came to its end and nothing else is asked for now than was then."""
    asked = {name: value for name, value in options_data(options).items() if name not in _MAY_CHANGE}
    return (
        manifest.get("state") == "done"
        and manifest.get("verb") == verb
        and {name: each["text"] for name, each in manifest.get("targets", {}).items()} == dict(targets)
        and all(manifest["options"].get(name, value) == value for name, value in asked.items())
    )


def mark_gap(folder: RunFolder, manifest: dict[str, Any], past: Past, clock: Clock) -> None:
    """Write down that the run did not run for a while; virtual time has no such gaps."""
    if clock.virtual:
        return
    lost_s = lost_between(manifest, past.last_seen_ns, clock.wall_ns())
    folder.add("segments", {"event": "resumed", "at_ns": past.last_seen_ns, "lost_s": lost_s})
    manifest["gaps"] = [*manifest["gaps"], {"at_ns": past.last_seen_ns, "lost_s": lost_s}]


def pass_to(clock: Clock, at_ns: int) -> None:
    """Let virtual time pass to a moment of an earlier sitting; real time passes by itself."""
    if isinstance(clock, VirtualClock):
        clock.pass_to_ns(at_ns)


PAST_VALIDITY = "past_validity"
"""Where the manifest of a continued run says how the client did in the sittings before."""
_OF_THE_END = frozenset({"error", "ended_wall_ns", "elapsed_ns", "hashes", "validity"})
_MAY_CHANGE = frozenset({"folder", "sample_every_s", "num_connections"})
"""Options that change nothing about what is measured."""


def check_workload(manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Make sure that a continued run asks what it asked before.

    Raises:
        RunFolderError: The file of the workload has changed since.
    """
    for name, now in json.loads(json.dumps(dict(facts))).items():
        before = manifest.get("workload", {}).get(name, now)
        if before != now:
            raise _other_run(f"workload {name}", before, now)


def lost_between(manifest: Mapping[str, Any], last_seen_ns: int, wall_ns: int) -> float:
    """Return how many seconds lie between the last moment of an earlier sitting and now, by the wall clock."""
    lost_s: float = sum(each["lost_s"] for each in manifest["gaps"])
    since_s: float = (wall_ns - manifest["began_wall_ns"] - last_seen_ns) / 1e9
    return max(0.0, since_s - lost_s)


def _judged_before(earlier: Mapping[str, Any], past: Past) -> Validity:
    """Return how the client did in all earlier sittings; one that was killed took what it knew with it."""
    if "validity" in earlier:
        return validity_of(earlier["validity"])
    before = validity_of(earlier[PAST_VALIDITY]) if PAST_VALIDITY in earlier else Validity()
    if not past.last_seen_ns:
        return before
    unknown = say("The run was cut off once: how busy and how late the client was until then is not known.")
    return worse_of(before, Validity(verdict=Verdict.SUSPECT, reasons=(unknown,)))


def _check_same(earlier: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue a run as another one."""
    for name in ("verb", "virtual"):
        if earlier[name] != now[name]:
            raise _other_run(name, earlier[name], now[name])
    for name, value in now["options"].items():
        if name not in _MAY_CHANGE and earlier["options"].get(name, value) != value:
            raise _other_run(name, earlier["options"][name], value)
    texts = [{name: each["text"] for name, each in of["targets"].items()} for of in (earlier, now)]
    if texts[0] != texts[1]:
        raise _other_run("targets", list(texts[0].values()), list(texts[1].values()))
    machines = [of["machine"]["fingerprint"] for of in (earlier, now)]
    if machines[0] != machines[1]:
        raise RunFolderError(
            say("The run in {path} was measured on another machine.", path=str(path)),
            hint=say("Continue it there, or measure anew here."),
        )


def _other_run(name: str, before: Any, now: Any) -> RunFolderError:
    return RunFolderError(
        say("The run in this folder has another {name}: {before!r}, not {now!r}.", name=name, before=before, now=now),
        hint=say("Continue it with the command and the options that it was begun with."),
    )


def _fresh(parent: Path, manifest: Mapping[str, Any]) -> Path:
    """Return a folder that no run has yet."""
    began = datetime.fromtimestamp(manifest["began_wall_ns"] / 1e9, tz=UTC)
    name = f"{began:%Y%m%d-%H%M%S}-{manifest['verb']}"
    paths = (parent / (name if not count else f"{name}-{count + 1}") for count in itertools.count())
    return next(path for path in paths if not (path / MANIFEST_FILE).exists())
