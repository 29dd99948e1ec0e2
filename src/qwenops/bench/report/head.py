"""What is seen first: the verdict in one sentence, what is to be doubted, and the few figures that matter most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenops.bench.collect.energy import UNAVAILABLE
from qwenops.bench.conclusion import Conclusion, Finding, Outcome, uncrossed
from qwenops.bench.continuing import how_to_continue
from qwenops.bench.folder import RecordedRun
from qwenops.bench.objective import SloVerdict
from qwenops.bench.report.figures import percent, quantity, seconds
from qwenops.bench.report.verbs import verb_tiles
from qwenops.bench.stats import Summary
from qwenops.bench.validity import Verdict
from qwenops.page.document import Block, Details, Notice, Paragraph, Tile, Tiles, Tone
from qwenops.text import Text, say

MANY_FAILURES = 0.05
"""From this share on, failures are what a run is about."""
MOST_FINDINGS = 6
COUNTED = frozenset({"quick", "latency", "load", "locust"})
"""Commands whose result is what became of the requests."""
_TONES = {
    Outcome.PASS: Tone.GOOD,
    Outcome.IMPROVED: Tone.GOOD,
    Outcome.EQUIVALENT: Tone.GOOD,
    Outcome.STABLE: Tone.GOOD,
    Outcome.UNDECIDED: Tone.WARNING,
    Outcome.INCONCLUSIVE: Tone.WARNING,
    Outcome.FAIL: Tone.BAD,
    Outcome.REGRESSED: Tone.BAD,
    Outcome.LEAK: Tone.BAD,
    Outcome.DRIFT: Tone.BAD,
    Outcome.INVALID: Tone.BAD,
}
_SEVERITIES = {"info": Tone.NOTE, "warning": Tone.WARNING, "error": Tone.BAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the top of the page is made of."""

    run: RecordedRun
    conclusion: Conclusion | None
    summary: Summary | None
    """Over everything that was measured; None where nothing was."""
    slo: SloVerdict | None
    alike: bool
    """Whether all of it was measured under one load, so that its latencies belong together."""
    parts: Sequence[Summary] = ()
    """Each measured part alone, in their order."""


def head_of(judged: Judged) -> list[Block]:
    """Return the blocks at the top of the page."""
    notice = verdict(judged)
    blocks: list[Block] = [notice, *doubts(judged.run, judged.conclusion)]
    if judged.summary is not None:
        blocks.append(tiles(judged, judged.summary))
    own = own_sentences(judged.run, judged.conclusion)
    return [*blocks, *(Paragraph(text=each) for each in own if each != notice.text)]


def own_sentences(run: RecordedRun, conclusion: Conclusion | None) -> list[str]:
    """Return what the command concluded; the warnings that `run.finish` puts before it have their own place."""
    if conclusion is None:
        return []
    found = validity_of(run)
    doubted = found["verdict"] in {Verdict.SUSPECT, Verdict.INVALID}
    warnings = (run.summary.get("state") == "interrupted") + (1 + len(found["reasons"]) if doubted else 0)
    return list(conclusion.sentences[warnings if "state" in run.summary else 0 :])


def verdict(judged: Judged) -> Notice:
    """Return the one sentence that the page is about."""
    run, conclusion, summary = judged.run, judged.conclusion, judged.summary
    found = validity_of(run)
    if found["verdict"] == Verdict.INVALID:
        reason = found["reasons"][0] if found["reasons"] else ""
        text = say("This measurement proves nothing: the client disturbed it.")
        return Notice(tone=Tone.BAD, text=text, detail=reason, large=True)
    own = own_sentences(run, conclusion)
    if conclusion is not None and conclusion.outcome in _TONES and own:
        notice = Notice(tone=_TONES[conclusion.outcome], text=own[0], large=True)
    elif own and run.manifest.get("verb") not in COUNTED:
        notice = Notice(tone=Tone.NOTE, text=own[0], large=True)
    elif summary is None:
        notice = Notice(tone=Tone.NOTE, text=say("This run measured no request."), large=True)
    else:
        notice = _of_objective(judged.slo, summary) if judged.slo else _of_counts(summary)
    doubted = found["verdict"] == Verdict.SUSPECT or conclusion is None
    return replace(notice, tone=Tone.WARNING) if doubted and notice.tone is Tone.GOOD else notice


def _of_objective(slo: SloVerdict, summary: Summary) -> Notice:
    counted = _of_counts(summary)
    match slo.decision:
        case Outcome.PASS:
            return replace(counted, tone=Tone.GOOD, text=say("The objective is met."))
        case Outcome.FAIL:
            return replace(counted, tone=Tone.BAD, text=_missed(slo))
        case Outcome.UNDECIDED:
            text = say("Whether the objective is met cannot be said: it is too close.")
            if slo.more_requests:
                text = say(
                    "Whether the objective is met cannot be said yet: about {more} more requests would decide.",
                    more=slo.more_requests,
                )
            return replace(counted, tone=Tone.WARNING, text=text)


def _missed(slo: SloVerdict) -> Text:
    """Say which promise was missed by the most."""
    failed = [each for each in slo.clauses if each.decision is Outcome.FAIL] or list(slo.clauses)
    worst = max(failed, key=lambda each: each.miss_share / each.clause.allowed)
    return say(
        "The objective is missed: {share} of the requests miss `{clause}`, {allowed} may.",
        share=percent(worst.miss_share),
        clause=worst.clause.text,
        allowed=percent(worst.clause.allowed),
    )


def _of_counts(summary: Summary) -> Notice:
    counts = summary.counts
    judged = counts.ok + counts.failed
    if not judged:
        return Notice(tone=Tone.WARNING, text=say("No request came to its end."), large=True)
    text = say("All {judged} requests were answered.", judged=judged)
    if counts.failed:
        share = percent(counts.failed / judged)
        text = say("{failed} of {judged} requests failed ({share}).", failed=counts.failed, judged=judged, share=share)
    elif counts.dropped:
        text = say("{dropped} requests were not sent, because too many were waiting.", dropped=counts.dropped)
    ttft, e2e = summary.distributions.get("ttft"), summary.distributions.get("e2e")
    detail: Text | str = ""
    if ttft and ttft.p50.value is not None and e2e and e2e.p50.value is not None:
        detail = say(
            "Half of the answers began within {ttft} and were complete within {e2e}.",
            ttft=seconds(ttft.p50.value),
            e2e=seconds(e2e.p50.value),
        )
    return Notice(tone=_tone_of(summary), text=text, detail=detail, large=True)


def _tone_of(summary: Summary) -> Tone:
    counts = summary.counts
    if counts.dropped or counts.failed >= MANY_FAILURES * max(counts.ok + counts.failed, 1):
        return Tone.BAD if counts.dropped or counts.failed else Tone.GOOD
    return Tone.WARNING if counts.failed else Tone.GOOD


def validity_of(run: RecordedRun) -> dict[str, Any]:
    """Return the client's judgement of itself: `verdict`, `reasons`, `figures`."""
    found = run.summary.get("validity") or run.manifest.get("validity") or {}
    reasons = uncrossed(found.get("reasons", []))
    return {
        "verdict": found.get("verdict"),
        "reasons": list(reasons),
        "figures": dict(found.get("figures", {})),
    }


def doubts(run: RecordedRun, conclusion: Conclusion | None) -> list[Block]:
    """Return everything that speaks against the figures, the worst first."""
    blocks: list[Block] = []
    if conclusion is None:
        blocks.append(
            Notice(
                tone=Tone.WARNING,
                text=say("This run has no conclusion: it was cut off, or is still going on."),
                detail=say(
                    "The figures are those of the requests that were recorded. {then}",
                    then=how_to_continue(str(run.manifest.get("verb", "")), run.path),
                ),
            )
        )
    elif any(driven.interrupted for driven in run.drivens):
        blocks.append(
            Notice(tone=Tone.WARNING, text=say("The run was stopped before its end; this is a partial result."))
        )
    blocks += _of_validity(run)
    blocks += [
        Notice(
            tone=Tone.WARNING,
            text=say("The run was interrupted for {lost} and continued.", lost=seconds(gap.lost_s))
            if gap.lost_s
            else say("The run was interrupted and continued."),
        )
        for gap in run.gaps
    ]
    return [*blocks, *_findings(conclusion.findings if conclusion else ())]


def _of_validity(run: RecordedRun) -> list[Block]:
    found = validity_of(run)
    match found["verdict"]:
        case Verdict.SUSPECT:
            return [
                Notice(tone=Tone.WARNING, text=say("The measurement is suspect."), detail=each)
                for each in found["reasons"]
            ] or [Notice(tone=Tone.WARNING, text=say("The measurement is suspect."))]
        case Verdict.INVALID:
            return [Notice(tone=Tone.BAD, text=each) for each in found["reasons"][1:]]
        case _:
            return []


def _findings(findings: Sequence[Finding]) -> list[Block]:
    order = {"error": 0, "warning": 1, "info": 2}
    notices: list[Block] = [
        Notice(tone=_SEVERITIES[each.severity], text=each.text)
        for each in sorted(findings, key=lambda found: order[found.severity])
        if each.text not in UNAVAILABLE  # said where the machine is described
    ]
    rest = notices[MOST_FINDINGS:]
    more = [Details(summary=say("{num} more findings", num=len(rest)), blocks=rest)] if rest else []
    return [*notices[:MOST_FINDINGS], *more]


def tiles(judged: Judged, summary: Summary) -> Tiles:
    """Return the headline figures; those of latency only where one load was measured."""
    overloaded = judged.run.manifest.get("verb") in {"stress", "slo"}  # on purpose, so failures are no bad news
    answered = _answered(summary)
    found: list[Tile | None] = [replace(answered, tone=Tone.PLAIN) if overloaded else answered]
    if judged.alike:
        if summary.rates.get("attainment") is not None:
            found.append(_attainment(summary, judged.conclusion, judged.slo))
        found += [_latency(summary, "ttft", say("First token, median"))]
        found += [_latency(summary, "e2e", say("Whole answer, median")), _tokens(summary), _rate(summary)]
    elif judged.run.manifest.get("verb") == "quick":
        found += _first_look(judged.parts)
    found += verb_tiles(judged.conclusion.data if judged.conclusion else {})
    found.append(_believed(judged.run, summary))
    return Tiles(tiles=[tile for tile in found if tile is not None])


def _answered(summary: Summary) -> Tile:
    counts = summary.counts
    judged = counts.ok + counts.failed
    if not counts.failed:
        return Tile(name=say("Answered"), value=f"{counts.ok:,}", detail=say("none failed"), tone=_tone_of(summary))
    detail = say("{failed} failed ({share})", failed=counts.failed, share=percent(counts.failed / judged))
    return Tile(name=say("Answered"), value=f"{counts.ok:,} / {judged:,}", detail=detail, tone=_tone_of(summary))


def _first_look(parts: Sequence[Summary]) -> list[Tile | None]:
    """Return how fast one caller was answered, and how much all callers got together."""
    if not parts:
        return []
    one, all_ = parts[0], parts[-1]
    latencies = (
        ("ttft", say("First token, median")),
        ("tpot", say("Each further token, median")),
        ("e2e", say("Whole answer, median")),
    )
    found = [_latency(one, name, title) for name, title in latencies]
    alone = [replace(tile, detail=say("one caller alone")) for tile in found if tile is not None]
    if len(parts) == 1:
        return [*alone, _tokens(one)]
    return [*alone, *_together(_tokens(all_), _rate(all_))]


def _together(*tiles: Tile | None) -> list[Tile | None]:
    return [replace(tile, detail=tile.detail or say("all callers together")) for tile in tiles if tile is not None]


def _latency(summary: Summary, name: str, title: Text) -> Tile | None:
    found = summary.distributions.get(name)
    if found is None:
        return None
    high = found.p95.value
    detail = say("too few answers for p95") if high is None else say("p95 {high}", high=seconds(high))
    return Tile(name=title, value=seconds(found.p50.value), detail=detail)


def _tokens(summary: Summary) -> Tile | None:
    rate = summary.rates.get("output_tokens_per_s")
    if rate is None:
        return None
    if summary.counts_chunks:
        name, detail = say("Chunks received"), say("the server did not count its tokens")
        return Tile(name=name, value=quantity(rate, "chunks/s"), detail=detail)
    return Tile(name=say("Tokens written"), value=quantity(rate, "tok/s"), detail=_token_source(summary))


def _token_source(summary: Summary) -> Text | str:
    match summary.token_source:
        case "server":
            return say("counted by the server")
        case "tokenizer":
            return say("counted by the tokenizer")
        case _:
            return ""


def _rate(summary: Summary) -> Tile | None:
    rate, target = summary.rates.get("completed_rate"), summary.arrivals.target_rate
    if rate is None:
        return None
    wanted = say("{target} sent on schedule", target=quantity(target, "1/s")) if target is not None else ""
    return Tile(name=say("Answers"), value=quantity(rate, "1/s"), detail=wanted)


def _attainment(summary: Summary, conclusion: Conclusion | None, slo: SloVerdict | None) -> Tile:
    share = summary.rates["attainment"]
    tone = _TONES.get(conclusion.outcome, Tone.PLAIN) if conclusion else Tone.PLAIN
    if slo is not None:
        share = share if slo.attainment is None else slo.attainment
        tone = {Outcome.PASS: Tone.GOOD, Outcome.FAIL: Tone.BAD, Outcome.UNDECIDED: Tone.WARNING}[slo.decision]
    detail = say("{rate} good answers", rate=quantity(summary.rates.get("goodput"), "1/s"))
    return Tile(name=say("Met the objective"), value=percent(share), detail=detail, tone=tone)


def _believed(run: RecordedRun, summary: Summary) -> Tile:
    names: Mapping[str, tuple[Text, Tone]] = {
        Verdict.VALID: (say("valid"), Tone.GOOD),
        Verdict.SUSPECT: (say("suspect"), Tone.WARNING),
        Verdict.INVALID: (say("invalid"), Tone.BAD),
    }
    found = validity_of(run)
    value, tone = names.get(str(found["verdict"]), (say("not judged"), Tone.PLAIN))
    if summary.counts.failed and not summary.counts.ok and tone is Tone.GOOD:
        return Tile(name=say("Measurement"), value=value, detail=say("but nothing was answered"), tone=Tone.PLAIN)
    share = found["figures"].get("client_cpu_share")
    detail = say("the client used {share} of the CPU", share=percent(share)) if share is not None else ""
    return Tile(name=say("Measurement"), value=value, detail=detail, tone=tone)
