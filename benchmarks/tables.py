"""Fill the READMEs' tables of measured facts from the result files.

    python -m benchmarks.tables [--check]

Between the markers `measured:begin` and `measured:end` stands nothing that was written by hand. `--check` changes
nothing and fails when a table is out of step; a test runs it.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
GIB = 1024**3

WORDS = {
    "README.md": {
        "on": "{processor}, {threads} cores ({isa}), {memory:.0f} GiB; random weights of the true shapes; median.",
        "what": "what",
        "join": " ",
        "prefill": "reading prompts, tokens/s (8 × 500)",
        "decode1": "writing, 1 caller, tokens/s",
        "decode8": "writing, 8 callers, tokens/s",
        "mixed": "8 callers, 500 tokens in, 100 out, tokens/s out",
        "against": "that, against openvino-genai",
        "times": "{median:.2f} times ({min:.2f} to {max:.2f})",
        "memory": "memory of the engine",
        "convert": "converting, every tensor checked",
        "http": "Served over HTTP instead of in process: {one:.1%} of the speed for 1 caller, {eight:.1%} for 8, "
        "{ttft:.1f} ms more to the first token. The API process idles at {rss:.0f} MiB and {cpu:.1f} % of a core.",
        "callers": "callers at once",
        "answers": "answers/s",
        "ttft": "first token, median",
        "e2e": "whole answer, median",
        "tokens": "tokens/s out",
        "load": "0.6B int8 under load, measured by `qwenops bench load` (about {prompt:.0f} tokens in, {cached:.0%} "
        "of them from the prefix cache; {answer:.0f} out):",
        "capacity": "Under the objective `{slo}`: about {value:.1f} answers/s (95 %: {low:.1f} to {high:.1f}), an "
        "estimate after 12 minutes of `qwenops bench slo`; a proof would take {proof:.0f} minutes.",
        "training": "Training 0.6B on calls of 200 to 1,500 tokens ({precision}, LoRA rank {rank} on all layers): "
        "{ours:,.0f} tokens/s, {over:.1f} times Hugging Face's Trainer with peft in the same run; the top 8 layers "
        "over cached activations {cached:,.0f} tokens/s, {cached_over:.1f} times ({filled:,.0f} with filling the cache "
        "over 4 epochs).",
        "batch": "`qwenops classify` on {calls:,} calls with {kills} kill -9: each call exactly once; memory grows by "
        "at most {growth:.0f} MiB for 100,000 calls; {ratio:.1%} of its own scorer's speed.",
        "startup": "From start to ready: {warm:.1f} s, {cold:.1f} s with a cold disk. "
        "Int8 against int4, a soak, the knee under 1 and 2 CPUs and more: [`benchmarks/`](benchmarks/README.md).",
    },
    "README.zh-CN.md": {
        "on": "{processor}，{threads} 核（{isa}），{memory:.0f} GiB；真实结构的随机权重；取中位数。",
        "what": "项目",
        "join": "",
        "prefill": "读提示词，token/秒（8 × 500）",
        "decode1": "写回答，1 人，token/秒",
        "decode8": "写回答，8 人，token/秒",
        "mixed": "8 人同时，读 500 写 100，写出 token/秒",
        "against": "同上，与 openvino-genai 相比",
        "times": "{median:.2f} 倍（{min:.2f} 到 {max:.2f}）",
        "memory": "引擎内存",
        "convert": "转换（逐个张量核对）",
        "http": "走 HTTP 与进程内直接调用相比：1 人时速度为 {one:.1%}，8 人时为 {eight:.1%}；首字多等 {ttft:.1f} 毫秒。"
        "API 进程空闲时占 {rss:.0f} MiB 内存、{cpu:.1f} % 的一个核。",
        "callers": "并发人数",
        "answers": "回答/秒",
        "ttft": "首字，中位数",
        "e2e": "整个回答，中位数",
        "tokens": "写出 token/秒",
        "load": "0.6B int8 在负载下的表现，由 `qwenops bench load` 测得"
        "（每次约读 {prompt:.0f} token，其中 {cached:.0%} 来自前缀缓存；写 {answer:.0f} token）：",
        "capacity": "在目标 `{slo}` 之内：约 {value:.1f} 个回答/秒（95 %：{low:.1f} 到 {high:.1f}），"
        "由 `qwenops bench slo` 用 12 分钟估出；要证明，需 {proof:.0f} 分钟。",
        "training": "训练 0.6B（通话 200 到 1,500 token，{precision}，各层 LoRA 秩 {rank}）：{ours:,.0f} token/秒，"
        "是同一次运行中 Hugging Face Trainer + peft 的 {over:.1f} 倍；"
        "缓存下层、只训练顶部 8 层时 {cached:,.0f} token/秒，"
        "为 {cached_over:.1f} 倍（把填充缓存的时间摊到 4 轮后 {filled:,.0f}）。",
        "batch": "`qwenops classify` 处理 {calls:,} 通电话，期间 {kills} 次 kill -9：每通恰好一条结果；"
        "每十万通内存最多增长 {growth:.0f} MiB；速度为其打分引擎本身的 {ratio:.1%}。",
        "startup": "从启动到就绪：{warm:.1f} 秒，磁盘无缓存时 {cold:.1f} 秒。"
        "int8 与 int4 的对比、长稳测试、1 核与 2 核下的拐点等，"
        "见 [`benchmarks/`](benchmarks/README.md)。",
    },
}


def read(name: str) -> dict[str, Any]:
    """Read a result file."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def is_measured(name: str) -> bool:
    """Return whether there is a result file; it has a sentence only then."""
    return (RESULTS / f"{name}.json").is_file()


def columns() -> dict[str, Mapping[str, Any]]:
    """Return the engine's results by the heading of their column."""
    small, large = read("engine")["results"], read("engine-1.7b")["results"]
    return {
        "0.6B int8": small["int8"],
        "0.6B int4": small["int4"],
        **{f"1.7B {scheme}": found for scheme, found in large.items()},
    }


def table(words: Mapping[str, str]) -> str:
    """Return the table and the lines around it in one language."""
    machine, found, convert = read("engine")["machine"], columns(), read("convert")["results"]

    def conversion(column: str) -> str:
        row = convert[column.lower()]
        peak = row["peak_resident_bytes"]["median"] / GIB
        return f"{row['seconds']['median']:.1f} s, {peak:.1f} GiB"

    def rate(load: str) -> Callable[[str], str]:
        return lambda column: f"{found[column]['scenarios'][load]['ours_tokens_per_s']['median']:,.0f}"

    rows: dict[str, Callable[[str], str]] = {
        **{load: rate(load) for load in ("prefill", "decode1", "decode8", "mixed")},
        "against": lambda column: words["times"].format(**found[column]["scenarios"]["mixed"]["ratio"]),
        "memory": lambda column: f"{found[column]['resident_bytes']['ours']['median'] / GIB:.2f} GiB",
        "convert": conversion,
    }
    lines = [f"| {words['what']} | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    lines += [
        f"| {words[name]} | " + " | ".join(cell(column) for column in found) + " |" for name, cell in rows.items()
    ]
    place = words["on"].format(
        processor=machine["processor"],
        threads=machine["threads"],
        isa=", ".join(each.upper().replace("_", "-") for each in machine["isa"]),
        memory=machine["memory_limit_bytes"] / GIB,
    )
    told = [served(words), under_load(words), f"{capacity(words)}{words['join']}{startup(words)}"]
    told += [sentence(words) for name, sentence in (("training", training), ("batch", batch)) if is_measured(name)]
    return "\n".join([place, "", *lines, "", "\n\n".join(told)])


def served(words: Mapping[str, str]) -> str:
    """Return the sentence on what HTTP costs."""
    results = read("served")["results"]
    return words["http"].format(
        one=results["served_to_engine_1"]["median"],
        eight=results["served_to_engine_8"]["median"],
        ttft=results["added_ttft_ms"]["median"],
        rss=results["idle"]["api_rss_mib"],
        cpu=results["idle"]["api_cpu_percent_of_a_core"],
    )


def under_load(words: Mapping[str, str]) -> str:
    """Return what the server does for 1, 2, 4 and more callers."""
    segments = read("measuring-serving")["results"]["answer"]["data"]["segments"]
    prompt, answer = (sum(each[name] for each in segments) for name in ("prompt_tokens", "completion_tokens"))
    number = sum(each["counts"]["ok"] for each in segments)
    asked = words["load"].format(
        prompt=prompt / number,
        cached=sum(each["cached_tokens"] for each in segments) / prompt,
        answer=answer / number,
    )
    columns = ("callers", "answers", "ttft", "e2e", "tokens")
    lines = [asked, "", "| " + " | ".join(words[name] for name in columns) + " |", "|---" * len(columns) + "|"]
    for each in segments:
        medians = [each["distributions"][name]["p50"]["value"] for name in ("ttft_s", "e2e_s")]
        rates = each["rates"]
        lines.append(
            f"| {each['segment'].removeprefix('users=')} | {rates['completed_rate']:.2f} | {medians[0] * 1000:.0f} ms "
            f"| {medians[1]:.1f} s | {rates['output_tokens_per_s']:.0f} |"
        )
    return "\n".join(lines)


def capacity(words: Mapping[str, str]) -> str:
    """Return what it does within an objective."""
    data = read("measuring-capacity")["results"]["answer"]["data"]
    low, value, high = (data[f"capacity{name}_per_s"] for name in ("_low", "", "_high"))
    return words["capacity"].format(slo=data["slo"], value=value, low=low, high=high, proof=data["needed_s"] / 60)


def startup(words: Mapping[str, str]) -> str:
    """Return how long the server takes to be ready."""
    rounds = read("measuring-startup")["results"]["answer"]["data"]["rounds"]
    ready = {
        state: statistics.median(each["ready_s"] for each in rounds if each["state"] == state)
        for state in ("warm", "cold")
    }
    return words["startup"].format(**ready)


def training(words: Mapping[str, str]) -> str:
    """Return the sentence on how fast training is."""
    found = read("training")
    results = found["results"]
    systems, over = results["systems"], results["ratios"]
    return words["training"].format(
        precision=found["options"]["precision"],
        rank=found["options"]["rank"],
        ours=systems["ours"]["tokens_per_s"]["median"],
        over=over["ours"]["trainer"]["median"],
        cached=systems["cached"]["tokens_per_s"]["median"],
        cached_over=over["cached"]["trainer"]["median"],
        filled=results["cached_with_fill_tokens_per_s"]["4_epochs"],
    )


def batch(words: Mapping[str, str]) -> str:
    """Return the sentence on what happens to large files."""
    found = read("batch")
    results = found["results"]
    memory = results["memory"]
    grown = sum(memory[name]["growth_bytes_per_100000_calls"]["high"] for name in ("command", "engine"))
    return words["batch"].format(
        calls=memory["calls"],
        kills=results["once"]["kills"],
        growth=max(0.0, grown / 1024**2),
        ratio=results["speed"][found["options"]["speed_model"]]["command_to_scorer"]["median"],
    )


def filled(readme: str) -> str:
    """Return the text of a README with its table made anew."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(WORDS[readme])}\n{END}{after}"


def main() -> int:
    """Fill or check both READMEs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [readme for readme in WORDS if (ROOT / readme).read_text(encoding="utf-8") != filled(readme)]
    if check and stale:
        print(f"Out of step with benchmarks/results: {', '.join(stale)}. Run `python -m benchmarks.tables`.")
        return 1
    for readme in stale:
        (ROOT / readme).write_text(filled(readme), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
