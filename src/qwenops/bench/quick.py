"""`bench quick`: a first look at any server, in about a minute.

Three prompts, ten requests one after the other, then two callers for half a minute. The prompts repeat, so from the
fourth request on a prefix cache may know them; the report says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qwenops.bench.conclusion import Conclusion, Outcome, Table
from qwenops.bench.definitions import e2e_s, ttft_s
from qwenops.bench.latency import first_data, first_request, first_sentences
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import NS_PER_S
from qwenops.bench.run import Run
from qwenops.bench.segment import ClosedLoop, Driven, Segment
from qwenops.bench.stats import summarise, summary_data
from qwenops.bench.tables import failure_table, overview_table, show_s, summary_sentence, user_names
from qwenops.bench.workload import Ask
from qwenops.generation import Message, Messages, SamplingParams
from qwenops.text import say

REQUESTS = 10
USERS = 2
DURATION_S = 30.0
PROMPTS = {
    "zh": ("你好，请介绍一下你自己。", "请解释一下人工智能的基本概念。", "写一个简单的 Python 函数来计算阶乘。"),
    "en": (
        "Hello, please introduce yourself.",
        "Please explain what artificial intelligence is.",
        "Write a short Python function that computes a factorial.",
    ),
}


class FewPrompts:
    """A workload of three prompts that repeat."""

    name = "quick"
    arrivals_ns: Sequence[int] | None = None

    def __init__(self, options: BenchOptions) -> None:
        """Take the language from the workload's name."""
        self.prompts = PROMPTS["en" if options.workload == "calls-en" else "zh"]
        self.facts: Mapping[str, Any] = {
            "kind": "quick",
            "cache": "warm",
            "prompts": list(self.prompts),
            "max_tokens": options.max_tokens,
            "thinking": options.thinking,
        }
        self._options = options

    def ask(self, index: int) -> Ask:
        """Return the prompt whose turn it is."""
        from hashlib import sha256

        number = index % len(self.prompts)
        prompt = self.prompts[number]
        return Ask(
            item=f"prompt-{number + 1}",
            messages=Messages(messages=(Message(role="user", content=prompt),), enable_thinking=self._options.thinking),
            sampling=SamplingParams(
                max_tokens=self._options.max_tokens,
                temperature=0.0,
                top_p=1.0,
                top_k=0,
                ignore_eos=self._options.force_length,
            ),
            prompt_hash=sha256(f"{prompt}{self._options.thinking}".encode()).hexdigest()[:16],
        )

    def warmup(self, index: int) -> Ask:
        """Return the first prompt: it is what a user would type first."""
        return self.ask(index)


async def quick(run: Run) -> Conclusion:
    """Look."""
    options, workload = run.options, FewPrompts(run.options)
    duration_s = DURATION_S if options.duration_s is None else options.duration_s
    requests = options.requests or REQUESTS
    first = await first_request(run, workload)
    each_s = next((e2e_s(each) for each in first.records), None)
    run.expected_s = None if each_s is None else run.now_ns() / NS_PER_S + requests * each_s + duration_s
    one = await run.drive(Segment(name="one caller", load=ClosedLoop(users=1, requests=requests)), workload=workload)
    run.expected_s = run.now_ns() / NS_PER_S + duration_s
    users = options.users or USERS
    many = await run.drive(
        Segment(name=f"users={users}", load=ClosedLoop(users=users), duration_s=duration_s), workload=workload
    )
    drivens = [each for each in (one, many) if each.records]
    summaries = [summarise(each) for each in drivens]
    failures = failure_table(say("Failures"), summaries)
    data: dict[str, Any] = {"segments": [summary_data(each) for each in summaries], "first": first_data(first)}
    data["cache"] = workload.facts["cache"]
    for driven, summary, name in zip(drivens, summaries, ("latency_test", "qps_test"), strict=False):
        data[name] = user_names(summary, driven)
    return Conclusion(
        outcome=Outcome.DONE,
        sentences=(
            *first_sentences(first),
            *map(summary_sentence, summaries),
            say("Prefix cache: warm; the three prompts repeat, and a server that has such a cache knew them."),
        ),
        tables=(
            overview_table(say("A first look"), summaries),
            _prompt_table(workload, one),
            *((failures,) if failures else ()),
        ),
        data=data,
    )


def _prompt_table(workload: FewPrompts, one: Driven) -> Table:
    """Return what each prompt took, on average."""
    rows = []
    for number, prompt in enumerate(workload.prompts, start=1):
        good = [each for each in one.records if each.item == f"prompt-{number}" and each.failure is None]
        tokens = [each.completion_tokens for each in good if each.completion_tokens is not None]
        rows.append(
            (
                prompt,
                len(good),
                show_s(_mean([value for each in good if (value := ttft_s(each)) is not None])),
                show_s(_mean([value for each in good if (value := e2e_s(each)) is not None])),
                _mean(tokens),
            )
        )
    return Table(
        title=say("The three prompts"),
        headings=(say("prompt"), say("answers"), say("TTFT mean"), say("E2E mean"), say("tokens, mean")),
        rows=tuple(rows),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
