"""The ladder finds the knee of servers whose law is known, and tells what happened to them on the way."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.climb import Climb, conclude
from qwenops.bench.clock import RealClock, running_clock
from qwenops.bench.conclusion import Conclusion, Outcome, conclusion_data, conclusion_of
from qwenops.bench.folder import read_run
from qwenops.bench.knee import Level, fit_knee
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import NS_PER_S, Phase
from qwenops.bench.report.verbs import knee_figure, verb_tiles
from qwenops.bench.run import Opening, Run, begin, finish
from qwenops.bench.segment import ClosedLoop, OpenLoop
from qwenops.bench.simulated import loop
from qwenops.bench.startup import Launch
from qwenops.bench.stress import stress, usual_bound
from qwenops.bench.target import Target
from qwenops.bench.targets import open_target
from qwenops.bench.under import Limits
from qwenops.errors import ConfigError
from qwenops.page.plot import Chart
from tests.bench.test_objective import record


def climb(
    folder: Path, target_text: str, *, stop_after: int | None = None, users: Sequence[int] = (), **asked: Any
) -> Conclusion:
    """Climb against a simulated server in virtual time."""
    options = BenchOptions(folder=folder, max_tokens=8, prompt_tokens=64, **asked)

    async def main() -> Conclusion:
        target = await open_target(target_text, options, model="simulated")
        async with begin(
            "stress",
            {"": target},
            options,
            clock=running_clock(),
            opening=Opening(out=folder / "run", calibrate_s=0),
        ) as run:
            _interrupt(run, stop_after)
            return finish(run, await stress(run, users=users))

    return loop.run(main())


def _interrupt(run: Run, after: int | None) -> None:
    """Stop a run when so many of its segments are over."""
    drive, over = run.drive, 0

    async def counted(*given: Any, **named: Any) -> Any:
        nonlocal over
        driven = await drive(*given, **named)
        over += 1
        if over == after:
            run.stop.set()
        return driven

    run.drive = counted  # type: ignore[method-assign]  # a user's Ctrl-C at a known moment


FIXED = "simulated:?virtual=1&service=fixed&service_s=2&slots=64"


class TestLadder:
    def test_the_law_of_the_server_is_found(self, tmp_path: Path) -> None:
        found = climb(tmp_path, f"{FIXED}&contention=0.1&coherence=0.02", duration_s=120.0)
        assert found.outcome is Outcome.DONE
        law = found.data["usl"]
        assert law["one_per_s"] == pytest.approx(0.5, rel=0.02)
        assert law["peak_users"] == pytest.approx((0.9 / 0.02) ** 0.5, rel=0.1)
        truth = 0.5 * 6.7 / (1 + 0.1 * 5.7 + 0.02 * 6.7 * 5.7)
        assert law["most_per_s"] == pytest.approx(truth, rel=0.03)
        assert law["misfit"] < 0.05
        assert law["knee_users_low"] <= found.data["knee_users"] <= law["knee_users_high"]

    def test_each_level_has_the_throughput_of_the_law_and_keeps_littles(self, tmp_path: Path) -> None:
        found = climb(tmp_path, f"{FIXED}&contention=0.1&coherence=0.02", duration_s=120.0)
        levels = found.data["climbs"][0]["levels"]
        assert [level["users"] for level in levels] == [1, 2, 4, 8, 16, 32][: len(levels)]
        assert len(levels) >= 5
        for level in levels:
            users = level["users"]
            expected = 0.5 * users / (1 + 0.1 * (users - 1) + 0.02 * users * (users - 1))
            assert level["per_s"] == pytest.approx(expected, rel=0.03)

    def test_the_ladder_ends_two_steps_past_saturation(self, tmp_path: Path) -> None:
        found = climb(
            tmp_path, "simulated:?virtual=1&service=fixed&service_s=1&slots=2&contention=0&coherence=0", duration_s=60.0
        )
        levels = found.data["climbs"][0]["levels"]
        assert [level["users"] for level in levels] == [1, 2, 4, 8]
        assert levels[1]["per_s"] == pytest.approx(2.0, rel=0.05)

    def test_the_steps_can_be_given(self, tmp_path: Path) -> None:
        options = BenchOptions(folder=tmp_path, duration_s=20.0)

        async def main() -> Conclusion:
            target = await open_target(FIXED, options, model="simulated")
            opening = Opening(out=tmp_path / "run", calibrate_s=0)
            async with begin("stress", {"": target}, options, clock=running_clock(), opening=opening) as run:
                return await stress(run, users=(3, 1, 3, 6))

        levels = loop.run(main()).data["climbs"][0]["levels"]
        assert [level["users"] for level in levels] == [1, 3, 6]

    @pytest.mark.parametrize("slots", [2, 4])
    def test_steps_are_long_enough_for_littles_law_without_being_told(self, tmp_path: Path, slots: int) -> None:
        text = "simulated:?virtual=1&service=exponential&service_s=2&contention=0&coherence=0"
        found = climb(tmp_path, f"{text}&slots={slots}")
        levels = found.data["climbs"][0]["levels"]
        assert levels[-1]["users"] >= 2 * slots
        assert all(level["little_error"] < 0.1 for level in levels if level["users"] >= 4)
        for step in read_run(tmp_path / "run").drivens:
            if step.segment.name.startswith("users="):
                users = step.segment.load.users if isinstance(step.segment.load, ClosedLoop) else 0
                stay_s = 2.0 * users / slots  # of callers that queue for so many places
                assert users < 4 or step.window_ns / NS_PER_S >= 7 * stay_s

    @pytest.mark.parametrize(
        ("law", "steps", "said"),
        [
            ("contention=0.1&coherence=0.02", (1, 2, 4, 8, 16), "Beyond about 7 callers it becomes slower."),
            ("contention=0.1&coherence=0.02", (1, 2, 4), ""),
            ("contention=0.7&coherence=0.003", (1, 2, 4, 8), "By the law it would become slower beyond about"),
            ("contention=0.1&coherence=0.0002", (1, 2, 4, 8), ""),
        ],
    )
    def test_what_was_not_tried_is_not_said_to_have_happened(
        self, tmp_path: Path, law: str, steps: tuple[int, ...], said: str
    ) -> None:
        found = climb(tmp_path, f"{FIXED}&{law}", users=steps, duration_s=120.0)
        slower = [str(each) for each in found.sentences if "slower" in each]
        assert len(slower) == bool(said)
        assert all(each.startswith(said) for each in slower)
        assert all("at most 8 were tried" in each for each in slower if "By the law" in each)

    @pytest.mark.parametrize(("last_per_s", "is_slower"), [(0.56, False), (0.40, True)])
    def test_a_law_that_bends_is_not_said_of_steps_that_do_not(self, last_per_s: float, *, is_slower: bool) -> None:
        levels = [
            Level(users=users, per_s=per_s, error=0.01, residence_s=1.0, little_error=0.0, sent=9, failed=0)
            for users, per_s in ((1, 0.3), (2, 0.45), (4, 0.55), (8, last_per_s))
        ]
        knee = fit_knee(levels)
        assert knee is not None
        bent = replace(knee, peak_users=replace(knee.peak_users, value=5.0))
        said = " ".join(conclude([Climb(name="", levels=levels, knee=bent)], interrupted=False).sentences)
        assert ("Beyond about 5 callers it becomes slower." in said) == is_slower

    def test_where_the_last_step_still_brings_more_no_knee_and_no_maximum_is_told(self, tmp_path: Path) -> None:
        found = climb(tmp_path, f"{FIXED}&contention=0.01&coherence=0.0001", users=(1, 2, 4), duration_s=120.0)
        said = " ".join(found.sentences)
        assert "Not saturated up to 4 callers" in said
        assert "Try more: --users 4,8,16,32." in said
        assert "At most" not in said
        assert "knee" not in said
        assert "an overload" not in said
        assert "knee_users" not in found.data
        (climbed,) = found.data["climbs"]
        assert (climbed["saturated"], climbed["usl"]) == (False, None)
        run = read_run(tmp_path / "run")
        law = {"one_per_s": 0.5, "contention": 0.01, "coherence": 0.0001, "knee_users": 3.3}
        older = {"climbs": [{**climbed, "usl": law}], "knee_users": 3.3}  # of a run that was recorded before
        figure = knee_figure(run, older)
        assert figure is not None
        assert isinstance(figure.plot, Chart)
        assert figure.plot.rules == []
        assert "neither a knee nor a maximum" in str(figure.caption)
        assert verb_tiles(older) == []


class TestStarting:
    async def test_a_server_that_does_not_start_is_no_success(self, tmp_path: Path) -> None:
        async def unopened(_url: str) -> Target:
            raise AssertionError("it was never ready")

        launch = Launch(
            argv=(sys.executable, "-c", "raise SystemExit(3)"), url="http://127.0.0.1:{port}", open_target=unopened
        )
        opening = Opening(out=tmp_path / "run", calibrate_s=0)
        async with begin("stress", {}, BenchOptions(folder=tmp_path), clock=RealClock(), opening=opening) as run:
            found = finish(run, await stress(run, launch=launch))
        assert found.exit_code == 1
        assert any("did not start" in each for each in found.sentences)

    async def test_a_run_that_is_stopped_does_not_wait_for_a_server_to_start(self, tmp_path: Path) -> None:
        options = BenchOptions(folder=tmp_path)

        async def unopened(_url: str) -> Target:
            raise AssertionError("it was never ready")

        launch = Launch(
            argv=(sys.executable, "-c", "import time; time.sleep(600)"),
            url="http://127.0.0.1:{port}",
            open_target=unopened,
        )
        opening = Opening(out=tmp_path / "run", calibrate_s=0)
        began_s = time.monotonic()
        async with begin("stress", {}, options, clock=RealClock(), opening=opening) as run:
            asyncio.get_running_loop().call_later(1.0, run.stop.set)
            found = finish(run, await stress(run, launch=launch))
        assert time.monotonic() - began_s < 45.0
        assert found.data["interrupted"]
        assert any("stopped before the server was ready" in each for each in found.sentences)


class TestOverload:
    def test_the_backlog_is_bounded_and_the_server_recovers(self, tmp_path: Path) -> None:
        found = climb(
            tmp_path, "simulated:?virtual=1&service=fixed&service_s=1&slots=4&contention=0&coherence=0", duration_s=60.0
        )
        recovery = found.data["climbs"][0]["recovery"]
        assert recovery["dropped"] > 0
        assert 0 < recovery["drained_s"] <= 5.0
        assert recovery["drained_s"] <= recovery["recovered_s"] <= recovery["drained_s"] + 1.0
        run = read_run(tmp_path / "run")
        overload = next(each for each in run.drivens if each.segment.name == "overload")
        assert isinstance(overload.segment.load, OpenLoop)
        assert overload.segment.max_in_flight is not None
        assert overload.segment.max_in_flight <= 16
        last = run.drivens[-1]
        assert (last.segment.name, last.segment.phase) == ("recovery", Phase.RECOVERY)

    def test_a_server_that_became_slow_for_good_has_not_recovered(self, tmp_path: Path) -> None:
        text = "simulated:?virtual=1&service=fixed&service_s=1&slots=4&contention=0&coherence=0&drift_per_h=60"
        found = climb(tmp_path, text, duration_s=60.0)
        assert found.data["climbs"][0]["recovery"]["recovered_s"] is None
        assert any("had not recovered" in str(each) for each in found.sentences)

    def test_four_fifths_of_the_best_are_kept_up_with_in_an_open_loop(self, tmp_path: Path) -> None:
        found = climb(
            tmp_path, "simulated:?virtual=1&service=fixed&service_s=1&slots=4&contention=0&coherence=0", duration_s=60.0
        )
        steady = found.data["climbs"][0]["steady"]
        assert steady["keeps_up"]
        assert steady["rate_per_s"] == pytest.approx(0.8 * 4.0, rel=0.2)


class TestEvents:
    def test_shed_requests_are_told_with_the_step(self, tmp_path: Path) -> None:
        text = "simulated:?virtual=1&service=fixed&service_s=1&slots=2&queue_limit=4&contention=0"
        found = climb(tmp_path, text, duration_s=30.0)
        assert any("users=8: " in str(each.text) and "were shed" in str(each.text) for each in found.findings)

    def test_a_server_that_fails_ends_the_ladder(self, tmp_path: Path) -> None:
        found = climb(tmp_path, "simulated:?virtual=1&status=500", duration_s=10.0)
        assert any("requests failed" in str(each.text) for each in found.findings)
        assert found.data["climbs"][0]["levels"] == []

    def test_an_interrupted_ladder_says_what_it_has(self, tmp_path: Path) -> None:
        found = climb(tmp_path, FIXED, duration_s=20.0, stop_after=5)
        assert found.data["interrupted"]
        assert [each["users"] for each in found.data["climbs"][0]["levels"]] == [1, 2, 4]
        assert any(each.startswith("Interrupted") for each in found.sentences)

    def test_the_conclusion_crosses_into_the_summary(self, tmp_path: Path) -> None:
        found = climb(tmp_path, FIXED, duration_s=20.0)
        assert conclusion_of(conclusion_data(found)) == found

    async def test_a_server_that_runs_already_cannot_be_limited(self) -> None:
        with pytest.raises(ConfigError, match="cannot be limited"):
            await stress(None, under=(Limits(cpu_cores=1.0),))  # type: ignore[arg-type]  # refused before it is used


class TestUsual:
    def test_the_bound_covers_what_was_seen_alone_and_little_more(self) -> None:
        records = [record(each, ttft_s=1.0 + 0.01 * (each % 3)) for each in range(30)]
        bound = usual_bound(records)
        assert bound is not None
        assert 1.02 <= bound < 1.1

    def test_without_answers_there_is_none(self) -> None:
        assert usual_bound([]) is None

    def test_two_answers_have_no_spread(self) -> None:
        assert usual_bound([record(0, ttft_s=1.0), record(1, ttft_s=2.0)]) == pytest.approx(3.0)
