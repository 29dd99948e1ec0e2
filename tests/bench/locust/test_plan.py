"""What Locust is told."""

import ast
from itertools import pairwise
from pathlib import Path

from qwenops.bench.locust.plan import LocustPlan, locustfile, master_argv, plan_of, worker_argv
from qwenops.bench.options import BenchOptions

URL = "http://127.0.0.1:8000/v1"


def plan(**options: object) -> LocustPlan:
    return plan_of(URL, "qwen3:0.6b", BenchOptions(**options), workers=2)  # type: ignore[arg-type]  # the tests' own values


def test_a_locustfile_is_python_that_names_server_model_and_options() -> None:
    text = locustfile(plan(workload="jsonl:it's.jsonl", rate=0.5, max_tokens=7))
    (caller,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    found = {node.targets[0].id: node.value for node in caller.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]  # plain names
    assert ast.literal_eval(found["host"]) == URL
    assert ast.literal_eval(found["model"]) == "qwen3:0.6b"
    call = found["options"]
    assert isinstance(call, ast.Call)
    told = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
    assert told["workload"] == "jsonl:it's.jsonl"
    assert BenchOptions(**told) == BenchOptions(workload="jsonl:it's.jsonl", rate=0.5, max_tokens=7)


def test_callers_and_time_have_defaults_and_the_time_is_whole_seconds() -> None:
    made = plan()
    assert (made.users, made.spawn_rate, made.whole_run_time_s) == (5, 5.0, 60)
    assert plan(duration_s=2.5).whole_run_time_s == 3
    assert plan(requests=10).run_time_s > 3600


def test_the_master_waits_for_all_workers_and_lets_answers_finish() -> None:
    argv = master_argv(plan(users=4, duration_s=10.0, timeout_s=25.0), Path("file.py"), 5557)
    pairs = dict(pairwise(argv))
    assert pairs["--expect-workers"] == "2"
    assert pairs["--users"] == "4"
    assert pairs["--run-time"] == "10s"
    assert pairs["--stop-timeout"] == "30"
    assert "--headless" in argv
    assert worker_argv(Path("file.py"), 5557)[-1] == "5557"


def test_under_a_rate_each_worker_has_one_user_who_sends_its_share() -> None:
    argv = master_argv(plan(users=50, rate=2.0), Path("file.py"), 5557)
    assert dict(pairwise(argv))["--users"] == "2"
