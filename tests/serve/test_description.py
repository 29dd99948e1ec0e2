"""Schemathesis reads /openapi.json and tries to catch the server at saying one thing and doing another."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineFinished, NonFatalError, ScenarioFinished

from qwenops.engines.fake import FakeTiming
from qwenops.observe.options import LogOptions
from qwenops.serve.auth import KeyRing
from qwenops.serve.champion import Desk
from qwenops.serve.openapi import CHAT, CLASSIFY, COMPLETIONS, INFERENCE
from qwenops.serve.options import KeyOptions, LimitOptions, ServeOptions
from qwenops.serve.reload import Wanted
from qwenops.serve.site import Site, build_site
from qwenops.state.database import open_database
from qwenops.state.feedback import read_feedback
from qwenops.state.keys import ApiKey, Scope, digest
from tests.serve.classifying import LEAVES, FakeSource, about, following
from tests.serve.conftest import MODEL, make_served
from tests.serve.test_app import SECRET

EXAMPLES = 40


def is_possible(body: Any) -> bool:
    """Tell whether a body keeps the few rules between fields that a schema cannot say; other tests hold those."""
    if not isinstance(body, dict):
        return True
    answered = is_signed(body.get("reviewer")) and is_of_the_taxonomy(body)
    return is_possible_prompt(body) and is_said(body.get("input", "x")) and answered


def is_signed(reviewer: Any) -> bool:
    """Tell whether a reviewer who is named has a name."""
    return reviewer is None or bool(str(reviewer).strip())


def is_of_the_taxonomy(body: Mapping[str, Any]) -> bool:
    """Tell whether an answer names nothing that the taxonomy lacks; of what has another shape a schema knows better."""
    label, secondary, axes = (body.get(name) for name in ("label", "secondary", "axes"))
    codes = [label, *(secondary if isinstance(secondary, list) else ())]
    values = axes if isinstance(axes, dict) else {}
    named = {each for each in codes if isinstance(each, str) and each}
    known = about().axes
    return named <= set(LEAVES) and all(value in known.get(axis, ()) for axis, value in values.items())


def is_possible_prompt(body: Mapping[str, Any]) -> bool:
    """Tell whether the fields of a request for a text go together."""
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if body.get("continue_final_message") and isinstance(last, dict) and last.get("role") != "assistant":
        return False
    choice = body.get("tool_choice")
    if choice == "required" or isinstance(choice, dict):
        return False
    structured = isinstance(body.get("response_format"), dict) and body["response_format"].get("type") != "text"
    effort, kwargs = body.get("reasoning_effort"), body.get("chat_template_kwargs")
    if structured and ((effort or "none") != "none" or kwargs):
        return False
    prompts = body.get("prompt")
    if isinstance(prompts, list) and isinstance(body.get("n"), int | float) and body["n"] * len(prompts) > 128:
        return False
    return not (body.get("echo") and body.get("logprobs") is not None)


def is_said(given: Any) -> bool:
    """Tell whether somebody speaks in each call of a request, and no two of its calls have one id."""
    calls = given if isinstance(given, list) else [given]
    ids = [call.get("conversation_id") for call in calls if isinstance(call, dict)]
    known = [each for each in ids if each is not None]
    return len(set(map(str, known))) == len(known) and all(map(speaks, calls))


def speaks(call: Any) -> bool:
    """Tell whether something is said in one call; of what is no call a schema knows better."""
    if isinstance(call, str):
        return bool(call.strip())
    turns = call.get("turns") if isinstance(call, dict) else None
    if not isinstance(turns, list):
        return True
    return any(isinstance(turn, dict) and str(turn.get("text", "")).strip() for turn in turns)


def is_hurried(headers: Any) -> bool:
    """Tell whether a deadline is so near that a busy machine rightly misses it, and answers 504."""
    return re.fullmatch(r"\d(\.\d+)?s?", str((headers or {}).get("X-Request-Deadline", ""))) is not None


@contextmanager
def site_of_everything(folder: Path) -> Iterator[Site]:
    """Put a whole server together, with every route, whatever the description allows, and a key for all of it."""
    key = ApiKey(id="k1", name="k", sha256=digest(SECRET), scopes=frozenset(Scope), created_at=datetime.now(tz=UTC))
    keys = KeyRing([lambda: [key]], options=KeyOptions(metrics="key"))
    keys.refresh()
    limits = LimitOptions(max_stop_strings=256, max_choices=128, max_output_tokens=16)
    options = ServeOptions(limits=limits, log=LogOptions(destination="off"))
    champion = asyncio.run(following(FakeSource()))
    with open_database(folder / "calls.sqlite") as database:
        desk = Desk(champion=champion, database=database)
        site = build_site(options, keys, read_options=lambda: Wanted(serve=options), desk=desk)
        site.serve_with(make_served(timing=FakeTiming(slots=512), context_tokens=1_000_000).serving.model())
        yield site


@pytest.mark.slow
def test_the_server_does_what_its_description_says(tmp_path: Path) -> None:
    with site_of_everything(tmp_path) as site:
        check(site)


def check(site: Site) -> None:
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "headers": {"Authorization": f"Bearer {SECRET}"},
            "generation": {"max-examples": EXAMPLES, "deterministic": True},
            # 503 is what a probe says once /admin/drain was called, which is among the routes.
            "operations": [
                {
                    "include-path-regex": "z$|^/health$",
                    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", 503]}},
                }
            ],
        }
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", site.app, config=config)

    @schema.hook
    def filter_case(_: Any, case: Any) -> bool:
        return is_possible(case.body) and not is_hurried(case.headers)

    @schema.hook
    def map_body(_: Any, body: Any) -> Any:
        """Let answers be about classes that there are, which no schema can say."""
        if isinstance(body, dict) and isinstance(body.get("label"), str) and body["label"]:
            kept = {name: value for name, value in body.items() if name not in {"secondary", "axes"}}
            return {**kept, "label": LEAVES[len(body["label"]) % len(LEAVES)]}
        return body

    failures: list[str] = []
    finished = False
    for event in from_schema(schema).execute():
        if isinstance(event, ScenarioFinished):
            failures += [
                f"{event.label}: {check.name}: {check.failure_info.failure.message}\n{check.failure_info.code_sample}"
                for checks in event.recorder.checks.values()
                for check in checks
                if check.failure_info is not None
            ]
        elif isinstance(event, NonFatalError):
            failures.append(str(event.info))
        finished = finished or isinstance(event, EngineFinished)
    assert finished
    assert failures == [], "\n".join(failures)
    ended = Counter(
        {
            (sample.labels["endpoint"], sample.labels["status"], sample.labels["model"]): sample.value
            for family in site.metrics.requests.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        }
    )
    for path, model in ((CHAT, MODEL), (COMPLETIONS, MODEL), (INFERENCE, MODEL), (CLASSIFY, "complaints")):
        assert ended[path, "success", model] >= 20, "a check of refusals alone would prove nothing"
    assert site.desk is not None
    assert site.desk.database is not None
    assert len(read_feedback(site.desk.database)) >= 20
