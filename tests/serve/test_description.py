"""Schemathesis reads /openapi.json and tries to catch the server at saying one thing and doing another."""

import re
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineFinished, NonFatalError, ScenarioFinished

from qwenops.engines.fake import FakeTiming
from qwenops.observe.options import LogOptions
from qwenops.serve.auth import KeyRing
from qwenops.serve.openapi import CHAT, COMPLETIONS, INFERENCE
from qwenops.serve.options import KeyOptions, LimitOptions, ServeOptions
from qwenops.serve.reload import Wanted
from qwenops.serve.site import Site, build_site
from qwenops.state.keys import ApiKey, Scope, digest
from tests.serve.conftest import MODEL, make_served
from tests.serve.test_app import SECRET

EXAMPLES = 40


def is_possible(body: Any) -> bool:
    """Tell whether a body keeps the few rules between fields that a schema cannot say; other tests hold those."""
    if not isinstance(body, dict):
        return True
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


def is_hurried(headers: Any) -> bool:
    """Tell whether a deadline is so near that a busy machine rightly misses it, and answers 504."""
    return re.fullmatch(r"\d(\.\d+)?s?", str((headers or {}).get("X-Request-Deadline", ""))) is not None


def site_of_everything() -> Site:
    """Put a whole server together, with every route, whatever the description allows, and a key for all of it."""
    key = ApiKey(id="k1", name="k", sha256=digest(SECRET), scopes=frozenset(Scope), created_at=datetime.now(tz=UTC))
    keys = KeyRing([lambda: [key]], options=KeyOptions(metrics="key"))
    keys.refresh()
    limits = LimitOptions(max_stop_strings=256, max_choices=128, max_output_tokens=16)
    options = ServeOptions(limits=limits, log=LogOptions(destination="off"))
    site = build_site(options, keys, read_options=lambda: Wanted(serve=options))
    site.serve_with(make_served(timing=FakeTiming(slots=512), context_tokens=1_000_000).serving.model())
    return site


@pytest.mark.slow
def test_the_server_does_what_its_description_says() -> None:
    site = site_of_everything()
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
            (sample.labels["endpoint"], sample.labels["status"]): sample.value
            for family in site.metrics.requests.collect()
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels["model"] == MODEL
        }
    )
    for path in (CHAT, COMPLETIONS, INFERENCE):
        assert ended[path, "success"] >= 20, "a check of refusals alone would prove nothing"
