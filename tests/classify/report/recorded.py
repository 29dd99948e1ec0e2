"""Records of evaluations whose figures are known, and a reader of the tables of a page."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np

from qwenops.calls.classes import Words
from qwenops.classify.answers import Answers
from qwenops.classify.calibrate import calibrate, logits_of
from qwenops.classify.decide import Filed, choose_thresholds, measure
from qwenops.classify.evaluate import Evaluation, Verdict, compare, evaluate
from qwenops.classify.hierarchy import Hierarchy
from qwenops.classify.mislabelled import Suspicion
from qwenops.classify.report.contents import evaluation_page
from qwenops.classify.report.record import (
    Cost,
    DoubtedLabel,
    OperatingPoint,
    PartFacts,
    Provenance,
    Record,
    Rival,
    names_of,
)
from qwenops.page.document import Page
from qwenops.page.html import render
from tests.classify.made import TAXONOMY
from tests.classify.simulated import calibrated

CLASSES = TAXONOMY.leaves
PARENTS = {leaf: above for leaf in CLASSES if (above := TAXONOMY.parent_of(leaf)) is not None}
HIERARCHY = Hierarchy(leaves=CLASSES, parent_of=PARENTS, review=frozenset({"inquiry"}))
RESAMPLES = 200


def said(num: int = 600, *, seed: int = 1, sharpness: float = 0.2) -> Answers:
    """Return answers whose probabilities are true, two calls of each customer."""
    found = calibrated(np.random.default_rng(seed), num, len(CLASSES), sharpness)
    return replace(found, classes=CLASSES, groups=np.arange(num) // 2)


def prior(answers: Answers) -> Answers:
    """Return what a classifier says of the same calls that knows only how frequent classes are."""
    shares = np.bincount(answers.truth, minlength=len(answers.classes)) / answers.num_calls
    return replace(answers, probabilities=np.tile(shares, (answers.num_calls, 1)))


def judged(answers: Answers, *, slices: Mapping[str, list[str]] | None = None) -> Evaluation:
    """Return the evaluation of answers."""
    return evaluate(
        [answers.classes[each] for each in answers.truth],
        answers.probabilities,
        answers.classes,
        groups=[f"c{each}" for each in answers.groups],
        slices=slices,
        parents={each: each.partition(".")[0] for each in answers.classes if "." in each},
        seed=1,
        resamples=RESAMPLES,
    )


def held(ours: Answers, theirs: Answers, *, name: str = "model") -> Verdict:
    """Return the verdict about the two."""
    return compare(ours, theirs, name=name, their_name="logistic", seed=1, resamples=RESAMPLES)


def filed(answers: Answers, *, precision: float = 0.95) -> OperatingPoint:
    """Return thresholds chosen on other calls, with what they do with these."""
    chosen = choose_thresholds(said(2000, seed=9), HIERARCHY, target_precision=precision)
    found: Filed = measure(answers, HIERARCHY, chosen)
    return OperatingPoint(thresholds=chosen, filed=found)


def record() -> Record:
    """Return a record that has everything."""
    ours = said()
    theirs = prior(ours)
    languages = ["zh" if each % 3 else "en" for each in range(ours.num_calls)]
    test = judged(ours, slices={"language": languages})
    rival = judged(theirs)
    doubted = Suspicion(row=3, given="billing.fee", likely="network.down", p_given=0.02, p_likely=0.93)
    return Record(
        name="model",
        made_at=datetime(2026, 3, 1, 8, 30, tzinfo=UTC),
        evaluation=test,
        before=rival.reliability,
        calibration=calibrate(logits_of(ours.probabilities), ours, seed=1),
        verdicts=(held(ours, theirs),),
        rivals=(Rival(name="logistic", evaluation=rival),),
        points=(filed(ours), filed(ours, precision=0.98)),
        doubted=(DoubtedLabel(conversation_id="call-3", suspicion=doubted),),
        num_labels=1234,
        ids={row: f"call-{row}" for row in range(ours.num_calls)},
        names=names_of(TAXONOMY),
        critical=("network.down",),
        cost=Cost(
            calls_per_s=5.0,
            measured="600 calls, 2 threads",
            machine_per_hour=0.36,
            review_share=0.2,
            minutes_per_review=3.0,
            person_per_hour=40.0,
            currency="CNY",
        ),
        provenance=Provenance(
            model={"version": "3", "base_sha256": "b" * 64},
            taxonomy=TAXONOMY.ref,
            taxonomy_sha256="c" * 64,
            prompt_sha256="d" * 64,
            redaction="zh-1",
            sources={"calls.jsonl": "a" * 64},
            parts={"train": PartFacts(calls=4000, sha256="e" * 64), "test": PartFacts(calls=600)},
            split={"keys": "customer, duplicate", "by_time": True, "seed": 7},
            machine={"processor": "x", "cores": 2.0},
            command="qwenops finetune evaluate run/adapter",
        ),
    )


def many_classes(num: int = 80, calls: int = 4000) -> Record:
    """Return a record of more classes than a matrix shows, with names as long as names get."""
    found = calibrated(np.random.default_rng(3), calls, num, 0.05)
    classes = tuple(f"g{each % 9}.class_{each:03d}" for each in range(num))
    ours = replace(found, classes=classes)
    names = {code: Words(zh="一个很长的投诉类别名称" * 2, en="A rather long name of a category") for code in classes}
    test = judged(ours, slices={"agent": [f"a{each % 70}" for each in range(calls)]})
    doubts = Suspicion(row=0, given=classes[0], likely=classes[1], p_given=0.1, p_likely=0.9)
    return Record(
        name="model",
        evaluation=test,
        before=test.reliability,
        verdicts=(held(ours, prior(ours)),),
        rivals=(Rival(name="logistic", evaluation=test),),
        doubted=tuple(DoubtedLabel(conversation_id=f"c{each}", suspicion=doubts) for each in range(500)),
        num_labels=9000,
        names=names,
    )


def english(page: Page) -> str:
    """Return the file of a page as if there were no catalogue, so that each text stands in it once."""
    return render(page, translation=lambda _: str)


def english_page(found: Record) -> str:
    """Return the file of the page about an evaluation; see `english`."""
    return english(evaluation_page(found))


@dataclass
class _Found:
    titles: dict[str, str] = field(default_factory=dict)
    tables: list[tuple[str, list[list[str]]]] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found = _Found()
        self._title = ""
        self._rows: list[list[str]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "h3" and given.get("id"):
            self._title = str(given["id"])
            self.found.titles[self._title] = ""
        elif tag == "table":
            self._rows = []
            self.found.tables.append((str(given["aria-labelledby"]), self._rows))
        elif self._rows is not None and tag == "tr":
            self._rows.append([])
        elif self._rows and tag in {"th", "td"}:
            self._rows[-1].append("")
        elif self._rows and tag == "small":
            self._rows[-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        if tag == "h3":
            self._title = ""
        elif tag == "table":
            self._rows = None

    def handle_data(self, data: str) -> None:
        if self._title:
            self.found.titles[self._title] += data
        elif self._rows and self._rows[-1]:
            self._rows[-1][-1] += data


def tables_of(html: str) -> dict[str, list[list[list[str]]]]:
    """Return the tables of a page by title: rows of cells, headings first; `|` comes before a cell's small print."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    found: dict[str, list[list[list[str]]]] = defaultdict(list)
    for name, rows in reader.found.tables:
        found[reader.found.titles[name]].append(rows)
    return found
