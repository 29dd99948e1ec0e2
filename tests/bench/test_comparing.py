"""Comparisons of simulated servers in virtual time: hours of measuring, in a second."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.clock import running_clock
from qwenops.bench.comparing import Plan, compare_targets, first_sides, noise
from qwenops.bench.conclusion import Conclusion, Outcome
from qwenops.bench.folder import read_run
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Phase
from qwenops.bench.run import Opening, Run, begin, finish
from qwenops.bench.simulated import loop
from qwenops.bench.targets import open_target
from qwenops.errors import ConfigError

SERVER = "simulated:?prefill_tokens_per_s={prefill}&decode_tokens_per_s=40&spread={spread}&seed={seed}&virtual=1"
Verb = Callable[[Run, Plan], Coroutine[Any, Any, Conclusion]]


def server(*, prefill: float = 800, seed: int = 1, spread: float = 0.02) -> str:
    return SERVER.format(prefill=prefill, seed=seed, spread=spread)


def measured(
    folder: Path,
    verb: Verb,
    targets: Sequence[str],
    plan: Plan,
    *,
    stop_after_s: float | None = None,
    resumed: bool = False,
    **options: Any,
) -> Conclusion:
    async def main() -> Conclusion:
        wanted = BenchOptions(folder=folder, max_tokens=8, prompt_tokens=128, **options)
        opened = {}
        for name, text in zip("AB", targets, strict=False):
            opened[name if len(targets) > 1 else ""] = await open_target(text, wanted, model="simulated")
        clock = running_clock()
        place = folder / "run"
        where = Opening(resume_from=place, calibrate_s=0) if resumed else Opening(out=place, calibrate_s=0)
        async with begin("compare", opened, wanted, clock=clock, opening=where) as run:
            if stop_after_s is not None:
                asyncio.get_running_loop().call_later(stop_after_s, run.stop.set)
            return finish(run, await verb(run, plan))

    return loop.run(main())


@pytest.mark.proves("C1")
def test_a_slower_server_is_found_and_the_ratio_is_true(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        compare_targets,
        [server(prefill=800), server(prefill=400, seed=2)],
        Plan(primary="ttft mean", cool_s=0),
    )
    assert found.outcome is Outcome.REGRESSED
    assert found.data["primary"]["ratio"] == pytest.approx(2.0, rel=0.03)
    assert found.data["primary"]["low"] < found.data["primary"]["ratio"] < found.data["primary"]["high"]
    assert "REGRESSED" in found.sentences[0]
    assert found.exit_code == 0


def test_a_faster_server_is_an_improvement(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        compare_targets,
        [server(prefill=400), server(prefill=800, seed=2)],
        Plan(primary="ttft mean", cool_s=0),
    )
    assert found.outcome is Outcome.IMPROVED


def test_two_servers_of_the_same_kind_are_equivalent(tmp_path: Path) -> None:
    found = measured(tmp_path, compare_targets, [server(seed=1), server(seed=2)], Plan(cool_s=0))
    assert found.outcome is Outcome.EQUIVALENT


def test_both_sides_of_a_pair_ask_the_same_on_the_same_schedule(tmp_path: Path) -> None:
    measured(tmp_path, compare_targets, [server(), server(seed=2)], Plan(cool_s=0, requests=5), rate=2.0)
    recorded = read_run(tmp_path / "run")
    blocks = {each.segment.name: each for each in recorded.drivens if each.segment.phase is Phase.MEASURE}
    assert len(blocks) == 16
    for number in range(1, 9):
        a, b = blocks[f"block {number} A"], blocks[f"block {number} B"]
        assert [each.prompt_hash for each in a.records] == [each.prompt_hash for each in b.records]
        assert a.segment.load == b.segment.load
        assert {each.target for each in a.records} == {"A"}
        assert {each.target for each in b.records} == {"B"}
    hashes = [each.prompt_hash for name, block in blocks.items() if name.endswith("A") for each in block.records]
    assert len(set(hashes)) == len(hashes), "no block finds what another one has put into a cache"


@pytest.mark.parametrize("cache", ["warm", "cold", "bust"])
def test_prompts_of_a_file_are_new_in_each_pair_and_the_same_on_both_sides(tmp_path: Path, cache: str) -> None:
    asked = [[("system", "Be kind."), ("user", f"Question {each}"), ("assistant", "?"), ("user", "!")] for each in "ab"]
    lines = [{"messages": [{"role": role, "content": text} for role, text in item]} for item in asked]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    found = measured(
        tmp_path,
        compare_targets,
        [server(), server(seed=2)],
        Plan(cool_s=0, requests=3),
        workload=f"jsonl:{tmp_path / 'asked.jsonl'}",
        cache=cache,
        record_text=True,
    )
    assert any("A marker in each prompt" in each for each in found.sentences)
    blocks: dict[str, list[list[str | None]]] = {"A": [], "B": []}
    for each in read_run(tmp_path / "run").drivens:
        blocks[each.segment.name[-1]].append([record.prompt for record in each.records])
    assert blocks["A"][1:] == blocks["B"][1:]  # after the rehearsals
    prompts = [prompt or "" for block in blocks["A"] for prompt in block]
    assert len(set(prompts)) == len(prompts) == 27
    first_turns = {prompt[: prompt.index("Question")] for prompt in prompts}
    assert len(first_turns) == (9 if cache == "cold" else 27), "a marker stands before the first turn"
    if cache == "warm":
        assert all("Be kind." in each and not each.partition("Be kind.")[0].count("#") for each in prompts)


def test_on_one_server_no_block_asks_what_another_has_asked(tmp_path: Path) -> None:
    measured(tmp_path, noise, [server()], Plan(cool_s=0, requests=4))
    hashes = Counter(each.prompt_hash for block in read_run(tmp_path / "run").drivens for each in block.records)
    assert max(hashes.values()) == 1


def test_the_noise_of_a_server_says_what_can_be_found(tmp_path: Path) -> None:
    found = measured(tmp_path, noise, [server()], Plan(cool_s=0, requests=4))
    assert found.outcome is Outcome.DONE
    primary = found.data["primary"]
    assert 0 < primary["noise"] < 0.05
    assert found.data["detectable"] == pytest.approx(
        math.expm1(math.log1p(primary["noise"]) * (2.3646 + 0.8960) / math.sqrt(8)), rel=0.01
    )


def test_more_pairs_are_measured_only_when_the_first_do_not_decide(tmp_path: Path) -> None:
    clear = [server(prefill=800), server(prefill=200, seed=2)]
    found = measured(tmp_path / "clear", compare_targets, clear, Plan(cool_s=0, extra_pairs=8, requests=3))
    assert found.data["look"] == 0
    assert found.data["primary"]["pairs"] == 8
    unclear = [server(spread=0.5), server(seed=2, spread=0.5)]
    found = measured(tmp_path / "unclear", compare_targets, unclear, Plan(cool_s=0, extra_pairs=6, requests=3))
    assert found.data["look"] == 1
    assert found.data["primary"]["pairs"] == 14


def test_which_side_goes_first_is_random_balanced_and_repeatable() -> None:
    orders = {first_sides(8, seed) for seed in range(50)}
    assert len(orders) > 20
    assert all(sum(each) == 4 for each in orders)
    assert first_sides(8, 3) == first_sides(8, 3)
    assert sum(first_sides(7, 1)) in {3, 4}


def test_blocks_are_measured_in_the_drawn_order(tmp_path: Path) -> None:
    measured(tmp_path, compare_targets, [server(), server(seed=2)], Plan(cool_s=0, requests=2), seed=5)
    names = [each.segment.name for each in read_run(tmp_path / "run").drivens if each.segment.phase is Phase.MEASURE]
    firsts = tuple("AB".index(name[-1]) for name in names[::2])
    assert firsts == first_sides(8, 5)


def test_a_stopped_comparison_says_what_it_has(tmp_path: Path) -> None:
    found = measured(tmp_path, compare_targets, [server(), server(seed=2)], Plan(cool_s=0), stop_after_s=30)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.data["primary"]["pairs"] < 6
    assert any("fewer than 6 decide nothing" in each for each in found.sentences)


def test_a_comparison_that_is_continued_equals_one_that_was_not_disturbed(tmp_path: Path) -> None:
    targets, plan = [server(), server(prefill=600, seed=2)], Plan(requests=4)
    whole = measured(tmp_path / "whole", compare_targets, targets, plan)
    measured(tmp_path / "parts", compare_targets, targets, plan, stop_after_s=12)
    found = measured(tmp_path / "parts", compare_targets, targets, plan, resumed=True)
    assert found == whole
    moments = [
        [(each.index, each.segment, each.sent_ns, each.prompt_hash, each.last_content_ns) for each in block.records]
        for folder in ("whole", "parts")
        for block in read_run(tmp_path / folder / "run").drivens
    ]
    assert moments[: len(moments) // 2] == moments[len(moments) // 2 :]


def test_a_comparison_has_two_targets_and_noise_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two targets"):
        measured(tmp_path / "one", compare_targets, [server()], Plan())
    with pytest.raises(ConfigError, match="noise of one"):
        measured(tmp_path / "two", noise, [server(), server(seed=2)], Plan())
    with pytest.raises(ConfigError, match="5 pairs"):
        measured(tmp_path / "few", noise, [server()], Plan(pairs=5))
