"""Every request of a run as columns that travel in the report."""

from collections.abc import Callable, Mapping

from qwenops.bench.definitions import e2e_s, schedule_lag_s, stall_s, ttfa_s, ttft_s
from qwenops.bench.folder import RecordedRun
from qwenops.bench.record import RequestRecord
from qwenops.page.document import RawData
from qwenops.text import say

_TIMES: Mapping[str, Callable[[RequestRecord], float | None]] = {
    "scheduled_s": lambda record: record.scheduled_ns / 1e9,
    "schedule_lag_s": schedule_lag_s,
    "ttft_s": ttft_s,
    "ttfa_s": lambda record: None if record.first_answer_ns == record.first_content_ns else ttfa_s(record),
    "e2e_s": e2e_s,
    "stall_s": stall_s,
}
_NAMES = (
    "segment",
    "phase",
    "target",
    "user",
    "item",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "failure",
)


def raw_data(run: RecordedRun) -> RawData | None:
    """Return the requests as columns; what is empty in all of them is left out."""
    records = sorted(
        (record for driven in run.drivens for record in driven.records),
        key=lambda each: (each.scheduled_ns, each.index),
    )
    if not records:
        return None
    columns: dict[str, list[float | str | None]] = {
        name: [of_record(record) for record in records] for name, of_record in _TIMES.items()
    }
    for name in _NAMES:
        columns[name] = [_plain(getattr(record, name)) for record in records]
    if len(set(columns["item"])) > len(records) // 2:
        del columns["item"]  # the place in the run says as much, in no bytes
    kept = {name: values for name, values in columns.items() if any(value not in {None, ""} for value in values)}
    return RawData(
        title=say("Raw data"),
        file_name="requests.csv",
        columns=kept,
        steps={name: 1e-6 for name in _TIMES if name in kept},
        after={"e2e_s": "ttft_s"} if "ttft_s" in kept else {},
        note=say(
            "Every request is in this page, with times as fine as fit. "
            "All moments, unrounded, are in `requests.jsonl` of the run's folder."
        ),
        absent=say("This page has no room left for the requests; they are in `requests.jsonl` of the run's folder."),
    )


def _plain(value: object) -> float | str | None:
    return value if value is None or isinstance(value, int | float) else str(value)
