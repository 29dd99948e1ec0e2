"""The page that says what every figure of `qwenops bench` means, in English and in Chinese.

The table of quantities comes from `qwenops.bench.definitions.METRICS`, with the translations of the catalogue; the
bounds come from where they are used. Only the connecting sentences stand here.
"""

from collections.abc import Sequence

from qwenops.bench.definitions import METRICS
from qwenops.statistics.samples import smallest_n
from qwenops.text import Language, translator

PERCENTILES = (50, 90, 95, 99)

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "title": "Definitions of measured quantities",
        "before": (
            "One name for each quantity, in what is printed, in the report, in `summary.json`, and in the language of "
            "`--slo`. All times come from a monotonic clock; the wall clock is read once for each run."
        ),
        "moments": "Moments of a request",
        "moments_text": (
            "Each request is recorded once, when it is over, in `requests.jsonl`, with its raw moments in nanoseconds "
            "since the beginning of the run: `scheduled_ns` (when it was due), `sent_ns`, `connected_ns` (only when a "
            "connection was opened), `first_byte_ns` (the head of the response), `first_content_ns`, "
            "`first_answer_ns` (the first content after the reasoning), `last_content_ns`, `ended_ns`, and the gaps "
            "between chunks in microseconds. *Content* is text that is not empty: a chunk with only a role, or only "
            "the usage, never counts. A chunk is not a token. An answer of one token has a time to first token and no "
            "time per output token: the figure is missing, not 0."
        ),
        "quantities": "Quantities",
        "headings": "name|meaning|how it is taken|unit|better",
        "window": "The window",
        "window_text": (
            "A request belongs to the window by the moment at which it was due. What is in flight at the end is waited "
            "for and counted. Throughput is what arrived inside the window, divided by its length: tokens are counted "
            "when their chunk arrives, not when their request ends. Token counts are the server's own; where it sends "
            "none, `token_source` says `tokenizer` or `estimate`."
        ),
        "percentiles": "Percentiles",
        "percentiles_text": (
            "Percentiles are order statistics of the raw samples, with a 95 % interval that holds for every "
            "distribution. A percentile that so few samples cannot bound is not printed: it says `n/a (40 < 299)`."
        ),
        "percentile_headings": "percentile|samples for an upper bound|samples for an interval",
        "failures": "Failures",
        "failures_text": (
            "A failed request has no latency; it misses every bound, and it counts against the goodput. `client`: this "
            "machine had no file, port or buffer left to connect with; such a run is invalid. `connect`: no "
            "connection, or the server was not ready. `timeout`: it took longer than `--timeout`. `rejected`: another "
            "4xx. `shed`: 429 or 503, the server chose not to. `failed`: another 5xx. `cut`: the stream ended before "
            "its end. `malformed`: the protocol was broken. `empty`: it ended well and held no content. "
            "`interrupted`: the run was stopped; no fault of the server, and not counted as one. No failure is tried "
            "again. A request goes out more than once in two cases only, in which nothing was computed before: a "
            "connection that the server had promised to keep turned out to be closed before one byte of an answer, or "
            "the server refused a field as unknown and is asked without it. Its record says so (`tries`), and its "
            "latencies count from the first time."
        ),
        "slo": "Objectives",
        "slo_text": (
            "`--slo 'ttft p95 < 2s, e2e p99 < 20s, errors < 1%, goodput > 95%'`. Each clause says how many requests "
            "may miss it. PASS and FAIL are proven by the exact binomial bound at 95 %, over blocks where requests "
            "depend on one another; anything else is UNDECIDED, with the number of requests that would decide."
        ),
    },
    "zh": {
        "title": "测量指标的定义",
        "before": (
            "每个量只有一个名字：命令行输出、报告、`summary.json` 和 `--slo` 里写的都是它。"
            "时间全部取自单调时钟，墙上时钟每次运行只读一次。"
        ),
        "moments": "一个请求的各个时刻",
        "moments_text": (
            "每个请求结束后在 `requests.jsonl` 里记一行，里面是原始时刻（从运行开始算起的纳秒数）："
            "`scheduled_ns`（应当发出的时刻）、`sent_ns`、`connected_ns`（只在新建连接时有）、"
            "`first_byte_ns`（收到响应头）、`first_content_ns`、`first_answer_ns`（思考之后的第一段内容）、"
            "`last_content_ns`、`ended_ns`，以及各数据块之间的间隔（微秒）。*内容*指非空的文本："
            "只带角色或只带用量的块都不算。块不等于 token。只有一个 token 的回答有首 token 时间，没有单 token 时间："
            "这个数是空缺，不是 0。"
        ),
        "quantities": "指标",
        "headings": "名称|含义|怎么取|单位|越…越好",
        "window": "时间窗口",
        "window_text": (
            "请求按应当发出的时刻归入窗口。窗口结束时还没答完的会等到结束，并且计入。吞吐量是窗口内到达的量除以窗口长度："
            "token 在它所在的块到达时计数，不在请求结束时计数。token 数以服务端报告的为准；服务端不报告时，"
            "`token_source` 会写明 `tokenizer` 或 `estimate`。"
        ),
        "percentiles": "百分位数",
        "percentiles_text": (
            "百分位数是原始样本的次序统计量，带 95% 区间，对任何分布都成立。"
            "样本太少、界不住的百分位数不输出，只写 `n/a (40 < 299)`。"
        ),
        "percentile_headings": "百分位数|给出上界所需样本|给出区间所需样本",
        "failures": "失败",
        "failures_text": (
            "失败的请求没有延迟；它不满足任何约束，也会拉低有效吞吐。"
            "`client`：本机已没有可用的文件句柄、端口或缓冲区，这样的测量无效。`connect`：连不上，或服务还没就绪。"
            "`timeout`：超过 `--timeout`。`rejected`：其他 4xx。`shed`：429 或 503，服务端主动拒绝。"
            "`failed`：其他 5xx。`cut`：流没到结尾就断了。`malformed`：不符合协议。`empty`：正常结束但没有内容。"
            "`interrupted`：运行被中止，不是服务端的错，也不算它的错。失败的请求不会重试。"
            "只有两种情况会再发一次，而且此前服务端什么都没算：服务端答应保持的连接在收到任何应答字节之前就已关闭；"
            "或者服务端不认识某个字段而拒绝，于是去掉该字段再问。记录里的 `tries` 会写明次数，延迟从第一次发送算起。"
        ),
        "slo": "服务目标",
        "slo_text": (
            "`--slo 'ttft p95 < 2s, e2e p99 < 20s, errors < 1%, goodput > 95%'`。每一条说明允许多少请求不满足。"
            "PASS 和 FAIL 由 95% 的精确二项界证明，请求之间有依赖时按分块计算；"
            "其余都是 UNDECIDED，并给出还要多少请求才能定论。"
        ),
    },
}

BETTER = {"en": {"lower": "lower", "higher": "higher"}, "zh": {"lower": "低", "higher": "高"}}


def definitions_parts(language: Language) -> list[str]:
    """Return the paragraphs and tables of the page, without the note at its top."""
    words, say = WORDS[language], translator(language)
    quantities = [
        (
            f"`{each.name}`",
            each.title.translated(say),
            each.definition.translated(say),
            each.unit,
            BETTER[language][each.better],
        )
        for each in METRICS.values()
    ]
    samples = [
        (f"p{percentile}", str(smallest_n(percentile / 100, 1)), str(smallest_n(percentile / 100, 2)))
        for percentile in PERCENTILES
    ]
    return [
        f"# {words['title']}",
        words["before"],
        f"## {words['moments']}",
        words["moments_text"],
        f"## {words['quantities']}",
        table(words["headings"].split("|"), quantities),
        f"## {words['window']}",
        words["window_text"],
        f"## {words['percentiles']}",
        words["percentiles_text"],
        table(words["percentile_headings"].split("|"), samples),
        f"## {words['failures']}",
        words["failures_text"],
        f"## {words['slo']}",
        words["slo_text"],
    ]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines
    )
