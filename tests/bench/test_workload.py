import json
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.options import BenchOptions
from qwenops.bench.prompts.lengths import estimated_tokens
from qwenops.bench.workload import Ask, MarkedWorkload, cache_sentence, open_workload
from qwenops.errors import ConfigError

CACHES = ("warm", "cold", "bust")


def opened(text: str, *, salt: str = "s", **options: Any) -> MarkedWorkload:
    return open_workload(BenchOptions(workload=text, **options), salt=salt)


def prompt(ask: Ask) -> str:
    return "\n".join(f"{each.role}\n{each.content}" for each in ask.messages.messages)


def shared(first: str, second: str) -> int:
    """Return how many characters two prompts have in common at their beginning: what a prefix cache may find."""
    return next(
        (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "asks.jsonl"
    items = [
        {"prompt": "What is a refund?", "system": "Answer in one word." * 10, "max_tokens": 7, "id": "first"},
        {"text": "The line is dead."},
        {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello?"}]},
    ]
    path.write_text("\n".join(json.dumps(each) for each in items) + "\n\n", "utf-8")
    return path


class TestCaches:
    @pytest.mark.parametrize("name", ["calls-zh", "calls-en"])
    def test_warm_prompts_share_their_beginning_and_nothing_more(self, name: str) -> None:
        work = opened(name, cache="warm")
        beginning = work.ask(0).messages.messages[0].content
        prompts = [prompt(work.ask(index)) for index in range(20)] + [prompt(work.warmup(0))]
        for index, each in enumerate(prompts[1:], start=1):
            assert len(beginning) < shared(prompts[0], each) < len(beginning) + 30, index
        assert len(set(prompts)) == len(prompts)

    @pytest.mark.parametrize("name", ["calls-zh", "calls-en"])
    def test_cold_prompts_share_nothing_with_warm_up_and_with_other_runs(self, name: str) -> None:
        work, other_run = opened(name, cache="cold", salt="a"), opened(name, cache="cold", salt="b")
        first, second = prompt(work.ask(0)), prompt(work.ask(1))
        assert shared(first, second) > 100  # the run's own beginning, once it has been sent
        assert shared(first, prompt(work.warmup(0))) < 15
        assert shared(first, prompt(other_run.ask(0))) < 15

    @pytest.mark.parametrize("name", ["calls-zh", "calls-en"])
    def test_bust_prompts_share_nothing_at_all(self, name: str) -> None:
        work = opened(name, cache="bust")
        prompts = [prompt(work.ask(index)) for index in range(30)] + [prompt(work.warmup(index)) for index in range(3)]
        assert max(shared(a, b) for a in prompts for b in prompts if a is not b) < 15

    @pytest.mark.parametrize("cache", CACHES)
    def test_another_salt_changes_markers_alone(self, cache: str) -> None:
        one, two = opened("calls-zh", cache=cache, salt="a"), opened("calls-zh", cache=cache, salt="b")
        assert prompt(one.salted("b").ask(3)) == prompt(two.ask(3))
        assert one.ask(3).item == two.ask(3).item
        assert one.ask(3).prompt_hash != two.ask(3).prompt_hash
        first, second = prompt(one.ask(3)), prompt(two.ask(3))
        assert len(first) == len(second)
        assert sum(a != b for a, b in zip(first, second, strict=True)) <= 24
        assert one.facts["content_hash"] == two.facts["content_hash"]

    @pytest.mark.parametrize("cache", CACHES)
    def test_the_policy_is_stated(self, cache: str) -> None:
        assert opened("calls-zh", cache=cache).facts["cache"] == cache
        assert cache in str(cache_sentence(cache))

    assert "all prompts share" in str(cache_sentence("warm", "calls-zh"))
    assert "all prompts share" not in str(cache_sentence("warm", "jsonl:own.jsonl"))

    def test_what_the_user_wrote_is_sent_as_it_is_and_repeats_when_warm(self, lines: Path) -> None:
        work = opened(f"jsonl:{lines}", cache="warm")
        assert [each.content for each in work.ask(1).messages.messages] == ["The line is dead."]
        assert prompt(work.ask(4)) == prompt(work.ask(1))
        warmup = work.warmup(0).messages.messages
        assert warmup[0] == work.ask(0).messages.messages[0]
        assert warmup[-1].content != work.ask(0).messages.messages[-1].content

    def test_cold_makes_what_repeats_distinct_behind_what_is_shared(self, lines: Path) -> None:
        work = opened(f"jsonl:{lines}", cache="cold")
        first, again = prompt(work.ask(0)), prompt(work.ask(3))
        assert first != again
        assert 180 < shared(first, again) < 230
        assert prompt(work.ask(1)) != prompt(work.ask(4))


class TestRequests:
    def test_the_same_number_is_the_same_request_and_the_hash_is_of_what_is_sent(self) -> None:
        work, same = opened("calls-zh"), opened("calls-zh")
        assert [work.ask(each) for each in (5, 0, 5)] == [same.ask(each) for each in (5, 0, 5)]
        assert work.ask(5).prompt_hash != work.ask(6).prompt_hash
        assert opened("calls-zh", seed=2).ask(5).prompt_hash != work.ask(5).prompt_hash
        assert opened("calls-zh", thinking=True).ask(5).prompt_hash != work.ask(5).prompt_hash

    def test_lengths_and_sampling_follow_the_options(self) -> None:
        plain = opened("calls-zh", max_tokens=9, force_length=True).ask(0)
        assert (plain.sampling.max_tokens, plain.sampling.ignore_eos, plain.sampling.temperature) == (9, True, 0.0)
        assert not plain.messages.enable_thinking
        thought = opened("calls-zh", thinking=True, seed=4).ask(0)
        assert (thought.sampling.temperature, thought.sampling.seed) == (0.6, 4)
        assert thought.messages.enable_thinking

    @pytest.mark.parametrize("median", [64, 512, 3000])
    def test_facts_say_how_long_prompts_are(self, median: int) -> None:
        facts = opened("calls-en", prompt_tokens=median).facts
        found = facts["estimated_prompt_tokens"]
        assert found["least"] < found["median"] < found["most"]
        assert found["median"] == pytest.approx(median, rel=0.15)
        json.dumps(dict(facts))

    def test_generator_and_markers_stay_what_they_are(self) -> None:
        # Who changes the generator counts up `calls.VERSION`, so that results are not compared across it unawares.
        assert opened("calls-zh", seed=1).facts["content_hash"] == "5f4d4ddccbdabae0"
        assert opened("calls-en", seed=1).facts["content_hash"] == "3a6484d0ef3e58fe"


class TestJsonLines:
    def test_each_form_is_read(self, lines: Path) -> None:
        work = opened(f"jsonl:{lines}", max_tokens=50)
        first, second, third = (work.ask(index) for index in range(3))
        assert (first.item, second.item) == ("asks.jsonl:1", "asks.jsonl:2"), "an id may be personal"
        assert [each.role for each in first.messages.messages] == ["system", "user"]
        assert (first.sampling.max_tokens, second.sampling.max_tokens) == (7, 50)
        assert [each.content for each in third.messages.messages] == ["Be short.", "Hello?"]
        assert work.arrivals_ns is None
        assert work.facts["num_items"] == 3
        assert len(work.facts["file_sha256"]) == 64

    def test_arrivals_count_from_the_first_and_sort_the_items(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"prompt": "b", "arrival": 12.5}\n{"prompt": "a", "arrival": 10}\n', "utf-8")
        work = opened(f"jsonl:{path}")
        assert work.arrivals_ns == (0, 2_500_000_000)
        assert [work.ask(index).messages.messages[0].content for index in range(2)] == ["a", "b"]
        assert work.ask(1).arrival_ns == 2_500_000_000

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b'{"prompt": "a"}\n{"prompt": }\n', "line 2: is no JSON"),
            (b'{"prompt": "a"}\n\n["a"]\n', "line 3: is no JSON object"),
            (b'{"prompt": ""}\n', "line 1: 'prompt' is no text"),
            (b'{"question": "a"}\n', "line 1: has none of 'prompt'"),
            (b'{"messages": []}\n', "line 1: 'messages' is no list"),
            (b'{"messages": [{"role": "user", "content": "a"}, {"role": "boss", "content": "b"}]}\n', "message 1"),
            (b'{"prompt": "a", "max_tokens": 0}\n', "line 1: 'max_tokens' is 0"),
            (b'{"prompt": "a", "arrival": "soon"}\n', "line 1: 'arrival' is 'soon'"),
            (b'{"prompt": "a", "arrival": 1}\n{"prompt": "b"}\n', "asks.jsonl:2 has no arrival"),
            (b'{"prompt": "a"}\n\xff\n', "line 2: is not UTF-8"),
            (b"\n\n", "holds no prompt"),
        ],
    )
    def test_what_is_wrong_is_told_with_file_and_line(self, tmp_path: Path, content: bytes, said: str) -> None:
        path = tmp_path / "asks.jsonl"
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            opened(f"jsonl:{path}")
        assert said in str(caught.value)
        assert str(path) in str(caught.value)
        assert caught.value.hint


class TestShareGpt:
    def write(self, path: Path, conversations: list[Any]) -> str:
        path.write_text(json.dumps(conversations, ensure_ascii=False), "utf-8")
        return f"sharegpt:{path}"

    def test_a_conversation_is_cut_to_a_prompt_that_ends_with_a_question(self, tmp_path: Path) -> None:
        turns = [{"from": "human" if turn % 2 == 0 else "gpt", "value": f"turn {turn}"} for turn in range(6)]
        work = opened(self.write(tmp_path / "s.json", [{"id": "c", "conversations": turns}]))
        ask = work.ask(0)
        assert ask.item == "s.json:1", "an id may be personal"
        assert [each.content for each in ask.messages.messages] == [f"turn {turn}" for turn in range(5)]
        assert ask.messages.messages[-1].role == "user"

    def test_long_ones_are_cut_shorter_and_those_that_begin_too_long_are_counted(self, tmp_path: Path) -> None:
        long = "word " * 500
        conversations = [
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": long}] * 3},
            {"conversations": [{"from": "human", "value": long}]},
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]},
        ]
        work = opened(self.write(tmp_path / "s.json", conversations), prompt_tokens=64)
        assert [len(work.ask(index).messages.messages) for index in range(2)] == [1, 2]
        assert (work.facts["num_items"], work.facts["left_out"]) == (2, 1)
        assert estimated_tokens(prompt(work.ask(0))) < 256

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ('[{"conversations": [{"from": "alien", "value": "x"}]}]', "'alien'"),
            ('[{"talk": []}]', "no list 'conversations'"),
            ('[\n{"conversations": \n]', "line 3: is no JSON"),
            ('[{"conversations": [{"from": "gpt", "value": "x"}]}]', "None of the 1 conversations"),
        ],
    )
    def test_what_is_wrong_is_told(self, tmp_path: Path, content: str, said: str) -> None:
        path = tmp_path / "s.json"
        path.write_text(content, "utf-8")
        with pytest.raises(ConfigError) as caught:
            opened(f"sharegpt:{path}")
        assert said in str(caught.value)


class TestTraces:
    def write(self, path: Path, content: str) -> str:
        path.write_text(content, "utf-8")
        return f"trace:{path}"

    def test_azure_columns(self, tmp_path: Path) -> None:
        text = (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n"
            "2023-11-16 18:17:03.9799600,374,44\n2023-11-16 18:17:04.0319600,396,109\n2023-11-16 18:17:05,50,0\n"
        )
        work = opened(self.write(tmp_path / "a.csv", text))
        assert work.arrivals_ns == (0, 52_000_000)
        assert [work.ask(index).sampling.max_tokens for index in range(2)] == [44, 109]
        assert estimated_tokens(prompt(work.ask(0))) == pytest.approx(374, rel=0.1)
        assert (work.facts["trace"], work.facts["left_out"]) == ("azure", 1)

    def test_burstgpt_columns_at_twice_the_speed(self, tmp_path: Path) -> None:
        text = (
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
            "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,API log\n118,ChatGPT,417,0,417,API log\n"
        )
        work = opened(self.write(tmp_path / "b.csv", text) + "?speed=2&lang=en")
        assert work.arrivals_ns == (0, 20_000_000_000)
        assert work.ask(1).arrival_ns == 20_000_000_000
        assert estimated_tokens(prompt(work.ask(1))) == pytest.approx(1087, rel=0.1)
        assert "Agent: " in prompt(work.ask(1))
        assert (work.facts["trace"], work.facts["speed"], work.facts["left_out"]) == ("burstgpt", 2.0, 1)

    def test_mooncake_keys_and_equal_blocks_are_equal_text(self, tmp_path: Path) -> None:
        rows = [
            {"timestamp": 1000, "input_length": 1200, "output_length": 52, "hash_ids": [7, 8, 9]},
            {"timestamp": 1500, "input_length": 1100, "output_length": 26, "hash_ids": [7, 8, 10]},
        ]
        work = opened(self.write(tmp_path / "m.jsonl", "\n".join(json.dumps(each) for each in rows)))
        assert work.arrivals_ns == (0, 500_000_000)
        first, second = prompt(work.ask(0)), prompt(work.ask(1))
        common = first[: shared(first, second)]
        assert estimated_tokens(common) == pytest.approx(1024, rel=0.05)
        assert estimated_tokens(first) == pytest.approx(1200, rel=0.05)

    def test_our_own_lines_hold_bodies_or_lengths(self, tmp_path: Path) -> None:
        text = '{"arrival": 0.5, "prompt": "hi"}\n{"arrival": 2, "prompt_tokens": 300, "max_tokens": 3}\n'
        work = opened(self.write(tmp_path / "o.jsonl", text))
        assert work.arrivals_ns == (0, 1_500_000_000)
        assert work.ask(0).messages.messages[0].content == "hi"
        assert work.ask(1).sampling.max_tokens == 3

    def test_ten_thousand_requests_are_opened_at_once(self, tmp_path: Path) -> None:
        rows = "\n".join(f"{index / 10},500,30" for index in range(10_000))
        work = opened(self.write(tmp_path / "big.csv", f"arrival,prompt_tokens,max_tokens\n{rows}\n"))
        assert work.arrivals_ns is not None
        assert len(work.arrivals_ns) == 10_000
        assert work.ask(9_999).item == "big.csv:10001"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("a,b,c\n1,2,3\n", "line 1: no known columns among a, b, c"),
            ("", "no known columns"),
            ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", "line 2: 'timestamp' is 'yesterday'"),
            ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,many,1\n", "'contexttokens' is 'many'"),
            ("arrival,prompt_tokens,max_tokens\n1,2\n", "line 2: has 2 columns"),
            ("arrival,prompt_tokens,max_tokens\n1,2,0\n", "holds no request"),
            ('{"arrival": 1}\n', "line 1: needs 'arrival'"),
            ('{"timestamp": -1, "input_length": 5}\n', "'timestamp' is -1"),
        ],
    )
    def test_what_is_wrong_is_told_with_file_and_line(self, tmp_path: Path, content: str, said: str) -> None:
        path = tmp_path / "trace"
        path.write_text(content, "utf-8")
        with pytest.raises(ConfigError) as caught:
            opened(f"trace:{path}")
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("poems", "no workload called 'poems'"),
        ("calls-zh:x", "'x' is too much"),
        ("jsonl:", "needs a file"),
        ("jsonl:/nowhere/at/all", "Cannot read /nowhere/at/all"),
        ("trace:x?speed=0", "speed=0"),
        ("trace:x?colour=red", "colour=red"),
    ],
)
def test_a_wrong_name_says_what_is_possible(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(text)
    assert said in str(caught.value)
    assert caught.value.hint
