"""`bench import`: results of `vllm bench serve` and of GuideLLM become a run's folder, so that their history counts.

What those files do not say stays unknown, and the folder says so: neither tool watches its own client, neither knows
the machine of the server in a form that could be compared, and neither keeps all moments of a request.

    vllm       `--save-result --save-detailed`: a time to first token, gaps between chunks, lengths, often send times.
               Without `--save-detailed` only its own percentiles are left; those that the number of requests cannot
               bound are not taken over. Its chat client counts the first chunk even when that holds no text.
    guidellm   `benchmarks.json`, schema 1 and 2: send, first and last token by the wall clock; the gaps are not kept.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwenops.bench.conclusion import SCHEMA as SUMMARY_SCHEMA
from qwenops.bench.conclusion import Conclusion, Outcome, conclusion_data, crossed
from qwenops.bench.folder import SCHEMA, RunFolder, segment_data
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.stats import summarise, summary_data
from qwenops.bench.tables import detail_table, overview_table
from qwenops.errors import ConfigError
from qwenops.statistics.samples import smallest_n
from qwenops.text import Text, say

_VLLM_NAMES = (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("itl", "icl_s"), ("e2el", "e2e_s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What another tool measured, in our words."""

    tool: str
    version: str
    model: str
    began_wall_s: float | None
    drivens: tuple[Driven, ...]
    only_figures: tuple[Mapping[str, Any], ...] = ()
    """Of parts without requests, as `stats.summary_data` has them."""
    caveats: tuple[Text, ...]
    options: Mapping[str, Any]


def read_foreign(path: Path) -> Foreign:
    """Read a result file of another tool.

    Raises:
        ConfigError: It cannot be read, or is of no known tool.
    """
    try:
        text = path.read_text("utf-8")
        found = _documents(text)
    except (OSError, ValueError) as error:
        raise ConfigError(
            say("{path} cannot be read as JSON: {reason}.", path=str(path), reason=str(error)),
            hint=say("Give the file that --save-result or GuideLLM's json output wrote."),
        ) from error
    try:
        if found and all(_is_vllm(each) for each in found):
            return _vllm(found)
        if len(found) == 1 and isinstance(found[0].get("benchmarks"), list) and found[0]["benchmarks"]:
            return _guidellm(found[0])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            say("{path} is not what its tool writes: {reason}.", path=str(path), reason=repr(error)),
            hint=say("Give a file of vllm bench serve, or benchmarks.json of GuideLLM 0.4 or later."),
        ) from error
    raise ConfigError(
        say("{path} is of no tool that is known.", path=str(path)),
        hint=say("Give a file of vllm bench serve, or benchmarks.json of GuideLLM 0.4 or later."),
    )


def import_results(source: Path, folder: Path, *, wall_ns: int) -> Conclusion:
    """Write what another tool measured as a run's folder and return what it holds.

    Args:
        source: The other tool's file.
        folder: The run's folder to make.
        wall_ns: Now; the run is dated so where the file has no date.

    Raises:
        ConfigError: As `read_foreign`.
        RunFolderError: There is a run in the folder already, or it cannot be written.
    """
    foreign = read_foreign(source)
    conclusion = _conclusion(foreign, source)
    manifest = _manifest(foreign, source, wall_ns)
    run = RunFolder.create(folder, manifest)
    try:
        for number, driven in enumerate(foreign.drivens):
            _write(run, number, driven)
        summary = {
            "schema": SUMMARY_SCHEMA,
            "verb": "import",
            "state": "done",
            "validity": manifest["validity"],
            **conclusion_data(conclusion),
        }
        run.write_summary(summary)
    finally:
        run.close()
    return conclusion


def _documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of a file: one, or one after the other as `--append-result` writes them."""
    decoder, place, found = json.JSONDecoder(), 0, []
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        document, place = decoder.raw_decode(text, place)
        if not isinstance(document, dict):
            raise ValueError("no JSON object")  # noqa: TRY004 -- the file is wrong, no argument is
        found.append(document)
    return found


def _is_vllm(found: Mapping[str, Any]) -> bool:
    return "request_throughput" in found and "completed" in found and "duration" in found


def _vllm(documents: Sequence[Mapping[str, Any]]) -> Foreign:
    drivens: list[Driven] = []
    figures: list[Mapping[str, Any]] = []
    caveats: list[Text] = [
        say("vllm counts the first event of a stream, also one without text, as its first token."),
    ]
    first_index, offset_ns = 0, 0
    for number, each in enumerate(documents):
        name = _vllm_part(each, number, len(documents))
        if "ttfts" not in each:
            figures.append(_vllm_figures(each, name))
            continue
        driven, known = _vllm_driven(each, name, first_index, offset_ns)
        first_index += len(driven.records)
        offset_ns = driven.ended_ns
        drivens.append(driven)
        if not known:
            caveats.append(say("{part}: the send times are not in the file; all are put at 0.", part=name))
    if figures:
        caveats.append(
            say(
                "The requests are not in the file (--save-detailed writes them): the percentiles are vllm's own, "
                "without intervals."
            )
        )
    first = documents[0]
    return Foreign(
        tool="vllm bench serve",
        version="",
        model=str(first.get("model_id", "")),
        began_wall_s=_vllm_date(first.get("date")),
        drivens=tuple(drivens),
        only_figures=tuple(figures),
        caveats=tuple(caveats),
        options={
            name: first.get(name)
            for name in ("backend", "request_rate", "burstiness", "max_concurrency", "num_prompts", "tokenizer_id")
        },
    )


def _vllm_part(each: Mapping[str, Any], number: int, total: int) -> str:
    rate, users = each.get("request_rate"), each.get("max_concurrency")
    name = f"users={users}" if users and rate in {None, "inf"} else f"rate={rate}"
    return name if total == 1 else f"{name} #{number + 1}"


def _vllm_driven(each: Mapping[str, Any], name: str, first_index: int, offset_ns: int) -> tuple[Driven, bool]:
    """Return one result with its requests, and whether their send times are known."""
    number = len(each["ttfts"])
    starts: Sequence[float] = each.get("start_times") or ()
    known = len(starts) == number and any(starts)
    sent_s = [float(at) for at in starts] if known else [0.0] * number
    queued_s = each.get("queue_times") or [0.0] * number
    due_s = [at - (wait or 0.0) for at, wait in zip(sent_s, queued_s, strict=True)]
    origin_s = min(due_s, default=0.0)
    records = []
    for index in range(number):
        record = _vllm_record(each, index, name)
        sent_ns = _ns(sent_s[index] - origin_s) + offset_ns
        records.append(_moved(record, first_index + index, _ns(due_s[index] - origin_s) + offset_ns, sent_ns))
    window_ns = _ns(each["duration"])
    rate = each.get("request_rate")
    offsets = tuple(sorted(record.scheduled_ns - offset_ns for record in records))
    load = (
        ClosedLoop(users=int(each["max_concurrency"]), requests=number)
        if each.get("max_concurrency") and rate in {None, "inf"}
        else OpenLoop(offsets_ns=offsets)
    )
    return (
        Driven(
            segment=Segment(name=name, load=load, duration_s=window_ns / NS_PER_S),
            began_ns=offset_ns,
            window_ns=window_ns,
            ended_ns=max([offset_ns + window_ns, *(record.ended_ns or 0 for record in records)]),
            records=tuple(records),
        ),
        known,
    )


def _vllm_record(each: Mapping[str, Any], index: int, name: str) -> RequestRecord:
    """Return one request with its moments after sending; `_moved` puts it where it belongs."""
    error = str((each.get("errors") or [""] * (index + 1))[index] or "")
    tokens = int(each["output_lens"][index])
    ttft_s = float(each["ttfts"][index])
    gaps_s = [float(gap) for gap in (each.get("itls") or [[]] * (index + 1))[index]]
    latencies = each.get("latencies")
    whole_s = float(latencies[index]) if latencies else ttft_s + sum(gaps_s)
    failed = bool(error) or tokens == 0
    streamed = ttft_s > 0
    last_s = ttft_s + sum(gaps_s) if gaps_s else max(ttft_s, whole_s)
    return RequestRecord(
        index=index,
        segment=name,
        phase=Phase.MEASURE,
        item=f"{index}",
        prompt_hash="",
        scheduled_ns=0,
        sent_ns=0,
        first_content_ns=_ns(ttft_s) if streamed else None,
        last_content_ns=_ns(last_s) if streamed or (whole_s > 0 and not failed) else None,
        ended_ns=_ns(max(whole_s, last_s)),
        chunk_gaps_us=tuple(round(gap * 1e6) for gap in gaps_s),
        prompt_tokens=int(each["input_lens"][index]),
        completion_tokens=tokens or None,
        failure=Failure.FAILED if failed else None,
        message=(error.strip().splitlines() or ["vllm says no reason"])[-1] if failed else "",
    )


def _moved(record: RequestRecord, index: int, scheduled_ns: int, sent_ns: int) -> RequestRecord:
    def later(at_ns: int | None) -> int | None:
        return None if at_ns is None else at_ns + sent_ns

    return replace(
        record,
        index=index,
        scheduled_ns=scheduled_ns,
        sent_ns=sent_ns,
        first_content_ns=later(record.first_content_ns),
        last_content_ns=later(record.last_content_ns),
        ended_ns=later(record.ended_ns),
    )


def _vllm_figures(each: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what is left of a result without its requests, in the form of `stats.summary_data`."""
    n = int(each["completed"])
    failed = int(each.get("failed", 0))
    distributions = {}
    for theirs, ours in _VLLM_NAMES:
        if f"mean_{theirs}_ms" not in each:
            continue
        # How many gaps there were is not in the file; of the others there is one for each answer.
        num = None if theirs == "itl" else n
        distributions[ours] = {
            "n": num,
            "mean": _seconds(each.get(f"mean_{theirs}_ms")),
            "sd": _seconds(each.get(f"std_{theirs}_ms")),
            "min": None,
            "max": None,
            "p50": _vllm_estimate(each.get(f"median_{theirs}_ms"), 0.5, num),
            **{f"p{p}": _vllm_estimate(each.get(f"p{p}_{theirs}_ms"), p / 100, num) for p in (90, 95, 99)},
        }
    counts = {"scheduled": n + failed, "sent": n + failed, "ok": n, "failed": failed, "failures": {}, "dropped": 0}
    return {
        "segment": name,
        "window_s": each["duration"],
        "counts": counts | {"interrupted": 0},
        "distributions": distributions,
        "rates": {
            "errors": failed / (n + failed) if n + failed else None,
            "completed_rate": each.get("request_throughput"),
            "goodput": each.get("request_goodput"),
            "output_tokens_per_s": each.get("output_throughput"),
        },
        "token_source": None,
        "prompt_tokens": each.get("total_input_tokens"),
        "completion_tokens": each.get("total_output_tokens"),
    }


def _vllm_estimate(value_ms: float | None, p: float, n: int | None) -> dict[str, Any]:
    estimate = {"value": None, "low": None, "high": None, "note": "n/a"}
    needed = smallest_n(p)
    if n is not None and n < needed:
        return estimate | {"note": f"n/a ({n} < {needed})"}
    return estimate if value_ms is None else estimate | {"value": value_ms / 1000, "note": ""}


def _vllm_date(date: Any) -> float | None:
    try:
        # The file has the local time of a machine whose zone nobody knows.
        return datetime.strptime(str(date), "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _guidellm(found: Mapping[str, Any]) -> Foreign:
    benchmarks = found["benchmarks"]
    origin_s = min(float(each["start_time"]) for each in benchmarks)
    drivens: list[Driven] = []
    caveats: list[Text] = [
        say("guidellm reads the wall clock: a step of it is in the latencies. It keeps no gaps between chunks."),
    ]
    first_index = 0
    for number, each in enumerate(benchmarks):
        name = _guidellm_part(each, number, len(benchmarks))
        driven = _guidellm_driven(each, name, first_index, origin_s)
        first_index += len(driven.records)
        drivens.append(driven)
        made = (each.get("metrics", {}).get("request_totals") or {}).get("total")
        if made is not None and made > len(driven.records):
            caveats.append(
                say(
                    "{part}: the file holds {kept} of {made} requests; rates and counts are those of the kept ones.",
                    part=name,
                    kept=len(driven.records),
                    made=made,
                )
            )
    config = benchmarks[0].get("config", {})
    backend = config.get("backend") or {}
    return Foreign(
        tool="guidellm",
        version=str((found.get("metadata") or {}).get("guidellm_version", "")),
        model=str(backend.get("model") or ""),
        began_wall_s=origin_s,
        drivens=tuple(drivens),
        caveats=tuple(caveats),
        options={"strategy": config.get("strategy"), "profile": config.get("profile")},
    )


def _guidellm_part(each: Mapping[str, Any], number: int, total: int) -> str:
    strategy = each.get("config", {}).get("strategy") or {}
    kind = strategy.get("type_", "benchmark")
    if "rate" in strategy:
        name = f"{kind} rate={strategy['rate']:g}"
    else:
        name = f"users={strategy['streams']}" if "streams" in strategy else str(kind)
    return name if total == 1 else f"{name} #{number + 1}"


def _guidellm_driven(each: Mapping[str, Any], name: str, first_index: int, origin_s: float) -> Driven:
    statuses = (("successful", None), ("errored", Failure.FAILED), ("incomplete", Failure.INTERRUPTED))
    made = [
        _guidellm_record(request, name, failure, origin_s)
        for status, failure in statuses
        for request in each["requests"].get(status) or ()
        if _guidellm_start(request) is not None
    ]
    made.sort(key=lambda record: record.scheduled_ns)
    records = tuple(replace(record, index=first_index + place) for place, record in enumerate(made))
    began_ns, ended_ns = _ns(each["start_time"] - origin_s), _ns(each["end_time"] - origin_s)
    strategy = each.get("config", {}).get("strategy") or {}
    load = (
        OpenLoop(offsets_ns=tuple(record.scheduled_ns - began_ns for record in records))
        if "rate" in strategy or strategy.get("type_") == "trace"
        else ClosedLoop(users=int(strategy.get("streams") or 1), requests=len(records))
    )
    return Driven(
        segment=Segment(name=name, load=load, duration_s=(ended_ns - began_ns) / NS_PER_S),
        began_ns=began_ns,
        window_ns=ended_ns - began_ns,
        ended_ns=max([ended_ns, *(record.ended_ns or 0 for record in records)]),
        records=records,
    )


def _guidellm_start(request: Mapping[str, Any]) -> float | None:
    timings = request["info"]["timings"]
    start = timings.get("request_start") or timings.get("resolve_start")
    return None if start is None else float(start)


def _guidellm_record(request: Mapping[str, Any], name: str, failure: Failure | None, origin_s: float) -> RequestRecord:
    info = request["info"]
    timings = info["timings"]

    def at_ns(*names: str) -> int | None:
        moment = next((timings[each] for each in names if timings.get(each) is not None), None)
        return None if moment is None else _ns(moment - origin_s)

    sent_ns = at_ns("request_start", "resolve_start") or 0
    return RequestRecord(
        index=0,
        segment=name,
        phase=Phase.MEASURE,
        item=str(request.get("request_id", "")),
        prompt_hash="",
        scheduled_ns=at_ns("targeted_start", "request_start", "resolve_start") or 0,
        sent_ns=sent_ns,
        first_content_ns=at_ns("first_token_iteration"),
        first_answer_ns=at_ns("first_output_token_iteration"),
        last_content_ns=at_ns("last_token_iteration"),
        ended_ns=at_ns("request_end", "resolve_end"),
        prompt_tokens=_tokens(request.get("input_metrics")),
        completion_tokens=_tokens(request.get("output_metrics")),
        cached_tokens=(request.get("input_metrics") or {}).get("cached_tokens"),
        failure=failure,
        message=(str(info.get("error") or "guidellm says no reason").splitlines() or [""])[-1] if failure else "",
    )


def _tokens(usage: Mapping[str, Any] | None) -> int | None:
    usage = usage or {}
    count = usage.get("total_tokens", usage.get("text_tokens"))
    return None if count is None else int(count)


def _write(run: RunFolder, number: int, driven: Driven) -> None:
    began = {
        "event": "began",
        "number": number,
        "at_ns": driven.began_ns,
        "target": "",
        "first_index": min((record.index for record in driven.records), default=0),
        "segment": segment_data(driven.segment),
    }
    run.add("segments", began)
    for record in driven.records:
        run.add_record(record)
    ended = {
        "event": "ended",
        "number": number,
        "at_ns": driven.ended_ns,
        "window_ns": driven.window_ns,
        "interrupted": False,
        "positions": len(driven.records),
    }
    run.add("segments", ended)


def _manifest(foreign: Foreign, source: Path, wall_ns: int) -> dict[str, Any]:
    began_ns = wall_ns if foreign.began_wall_s is None else _ns(foreign.began_wall_s)
    unwatched = say(
        "{tool} does not watch its own client, and does not say on which machine it ran.", tool=foreign.tool
    )
    elapsed_ns = max((driven.ended_ns for driven in foreign.drivens), default=0)
    return {
        "schema": SCHEMA,
        "verb": "import",
        "command": [],
        "state": "done",
        "virtual": False,
        "began_wall_ns": began_ns,
        "began": datetime.fromtimestamp(began_ns / NS_PER_S, tz=UTC).isoformat(timespec="milliseconds"),
        "ended_wall_ns": began_ns + elapsed_ns,
        "elapsed_ns": elapsed_ns,
        "salt": "",
        "seed": None,
        "options": {},
        "targets": {"": {"text": foreign.model or foreign.tool, "kind": "foreign", "url": "", "model": foreign.model}},
        "machine": {},
        "versions": {foreign.tool: foreign.version},
        "workload": {"name": f"{foreign.tool}: {source.name}"},
        "gaps": [],
        "hashes": {},
        "validity": {"verdict": "SUSPECT", "reasons": crossed([unwatched, *foreign.caveats]), "figures": {}},
        "imported": {
            "tool": foreign.tool,
            "version": foreign.version,
            "file": source.name,
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "options": dict(foreign.options),
        },
    }


def _conclusion(foreign: Foreign, source: Path) -> Conclusion:
    summaries = [summarise(driven) for driven in foreign.drivens]
    tables = [overview_table(say("Imported"), summaries)] if summaries else []
    tables += [detail_table(say("Latencies: {part}", part=each.segment), each) for each in summaries]
    number = sum(len(driven.records) for driven in foreign.drivens)
    return Conclusion(
        outcome=Outcome.DONE,
        sentences=(
            say(
                "{number} requests in {parts} parts were imported from {file}, which {tool} wrote.",
                number=number,
                parts=len(foreign.drivens) + len(foreign.only_figures),
                file=source.name,
                tool=foreign.tool,
            ),
            *foreign.caveats,
        ),
        tables=tuple(tables),
        data={"segments": [*(summary_data(each) for each in summaries), *foreign.only_figures]},
    )


def _ns(seconds: float) -> int:
    return round(float(seconds) * NS_PER_S)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None or math.isnan(milliseconds) else milliseconds / 1000
