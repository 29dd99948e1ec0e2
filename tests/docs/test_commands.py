"""Pages about classifying: what they tell people to type exists with those options; both languages say the same."""

import json
import re
from pathlib import Path

import pytest
from click import UsageError
from pydantic import BaseModel

from qwenops.calls.schema import parse_call, parse_label
from qwenops.calls.taxonomy import load
from qwenops.serve.call_schemas import ClassifyRequest, FeedbackRequest, ReviewRequest
from tests.docs.commands import parsed, shell_lines, typed_commands

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("tutorial/classify.md", "how-to/classify.md")
ALL = (*PAGES, *(f"zh/{page}" for page in PAGES))
BODIES: dict[str, type[BaseModel]] = {
    "/v1/classify": ClassifyRequest,
    "/v1/feedback": FeedbackRequest,
    "/v1/review": ReviewRequest,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ALL)
def test_every_command_of_a_page_is_understood(page: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = typed_commands(DOCS / page)
    assert len(commands) > 8
    for words in commands:
        parsed(words, monkeypatch, home)


@pytest.mark.parametrize(
    "words",
    [
        ("qwenops", "calls", "split", "calls.jsonl"),
        ("qwenops", "calls", "split", "calls.jsonl", "--out", "s.json", "--by-moon"),
        ("qwenops", "calls", "split", "calls.jsonl", "--out", "s.json", "--key", "moon"),
        ("qwenops", "keys", "create"),
    ],
)
def test_a_wrong_command_would_be_found(words: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError):
        parsed(words, monkeypatch, home)


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_show_the_same_commands(page: str) -> None:
    def without_words(line: str) -> str:
        return re.sub(r"\s+", " ", re.sub(r"(\s#.*$)|('\{.*\}')", "", line)).strip()

    english, chinese = ([without_words(line) for line in shell_lines(DOCS / each)] for each in (page, f"zh/{page}"))
    assert english == chinese


@pytest.mark.parametrize("page", ALL)
def test_every_body_that_is_sent_is_accepted(page: str) -> None:
    num_sent = 0
    for words in typed_commands(DOCS / page, program="curl"):
        (url,) = (word for word in words if word.startswith("http://"))
        if "-d" in words and not (body := words[words.index("-d") + 1]).startswith("@"):
            path = "/" + url.split("/", 3)[3]
            BODIES[path].model_validate(json.loads(body))
            num_sent += 1
    assert num_sent


@pytest.mark.parametrize("page", ["how-to/classify.md", "zh/how-to/classify.md"])
def test_the_examples_of_files_can_be_read(page: str, tmp_path: Path) -> None:
    text = (DOCS / page).read_text("utf-8")
    examples = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    call, label = (json.dumps(json.loads(each)) for each in examples)
    assert parse_call(call).conversation_id == parse_label(label).conversation_id
    assert parse_label(label).primary in load("telecom-cn").leaves
    (classes,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "my-shop.yaml").write_text(classes, "utf-8")
    assert load(tmp_path / "my-shop.yaml").leaves == ("delivery.late", "delivery.damaged", "none", "other")


def test_a_label_that_a_page_sends_is_a_class() -> None:
    leaves = load("telecom-cn").leaves
    for page in ALL:
        for label in re.findall(r'"label": "([^"]+)"', (DOCS / page).read_text("utf-8")):
            assert label in leaves
