import asyncio
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwenops.errors import ConfigError
from qwenops.options import walk
from qwenops.serve.options import Difference, KeyOptions, LimitOptions, ServeOptions, differences, take_live
from qwenops.serve.reload import Reloader, Wanted, fingerprint, watch

OLD = ServeOptions()


def changed(*, port: int = 8000, queue: int = 256) -> ServeOptions:
    return dataclasses.replace(OLD, port=port, limits=LimitOptions(queue_requests=queue))


def wanted(serve: ServeOptions, *elsewhere: Difference) -> Callable[[], Wanted]:
    return lambda: Wanted(serve=serve, elsewhere=elsewhere)


async def test_live_options_are_taken_over_and_the_others_are_named() -> None:
    applied: list[ServeOptions] = []
    results: list[str] = []
    reloader = Reloader(OLD, wanted(changed(port=9000, queue=7)), apply=[applied.append], on_result=results.append)
    report = await reloader.reload()
    assert [each.key for each in report.applied] == ["limits.queue_requests"]
    assert [each.key for each in report.needs_restart] == ["port"]
    assert report.generation == reloader.generation == 2
    assert reloader.options == applied[-1] == changed(queue=7)
    assert results == ["success"]
    assert report.as_json()["needs_restart"] == [{"key": "port", "old": 8000, "new": 9000}]


async def test_changes_of_other_parts_are_named_among_those_that_need_a_restart() -> None:
    elsewhere = Difference(key="engine.max_running", old=16, new=4, live=False)
    reloader = Reloader(OLD, wanted(changed(port=9000), elsewhere))
    report = await reloader.reload()
    assert report.applied == ()
    assert [each.key for each in report.needs_restart] == ["port", "engine.max_running"]
    assert report.as_json()["needs_restart"][1] == {"key": "engine.max_running", "old": 16, "new": 4}
    assert reloader.generation == 1


async def test_a_dry_run_says_the_same_and_changes_nothing() -> None:
    reloader = Reloader(OLD, wanted(changed(queue=7)), apply=[lambda _: pytest.fail("applied")])
    report = await reloader.reload(dry_run=True)
    assert [each.key for each in report.applied] == ["limits.queue_requests"]
    assert report.dry_run
    assert reloader.options is OLD
    assert reloader.generation == 1


async def test_a_reload_without_a_change_is_no_new_generation() -> None:
    reloader = Reloader(OLD, wanted(OLD))
    assert (await reloader.reload()).generation == 1


async def test_a_wrong_file_leaves_the_old_options_in_force() -> None:
    def broken() -> Wanted:
        raise ConfigError("line 3 is wrong")

    results: list[str] = []
    reloader = Reloader(OLD, broken, on_result=results.append)
    with pytest.raises(ConfigError, match="line 3"):
        await reloader.reload()
    assert reloader.options is OLD
    assert results == ["failure"]


async def test_when_one_part_refuses_all_go_back() -> None:
    first: list[ServeOptions] = []

    def second(options: ServeOptions) -> None:
        if options.limits.queue_requests == 7:
            raise OSError("no")

    results: list[str] = []
    reloader = Reloader(OLD, wanted(changed(queue=7)), apply=[first.append, second], on_result=results.append)
    with pytest.raises(ConfigError, match="could not be applied: no"):
        await reloader.reload()
    assert first == [changed(queue=7), OLD]
    assert reloader.options is OLD
    assert reloader.generation == 1
    assert results == ["failure"]


async def test_without_a_configuration_a_reload_is_refused() -> None:
    with pytest.raises(ConfigError, match="without a configuration"):
        await Reloader(OLD).reload()


def test_every_option_is_either_taken_over_or_kept_and_shows_as_a_difference() -> None:
    for path, field, spec in walk(ServeOptions):
        old_value = field.default
        new_value = f"{old_value}x" if not isinstance(old_value, bool | int | float) else old_value + 1
        new = _set(OLD, path, new_value)
        (found,) = differences(OLD, new)
        assert (found.key, found.live) == (".".join(path), spec.live)
        assert take_live(OLD, new) == (new if spec.live else OLD)


def _set(options: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    inner = _set(getattr(options, name), tuple(rest), value) if rest else value
    return dataclasses.replace(options, **{name: inner})


def test_the_keys_never_change_by_a_reload() -> None:
    new = dataclasses.replace(OLD, keys=KeyOptions(allow_public_without_keys=True))
    assert take_live(OLD, new) == OLD


async def test_a_changed_file_and_a_swapped_link_are_noticed_and_a_missing_one_is_not(tmp_path: Path) -> None:
    # A ConfigMap: the file is a link through `..data`, and an update swaps that link.
    for name, text in (("v1", "a = 1"), ("v2", "a = 2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "qwenops.toml").write_text(text)
        os.utime(tmp_path / name / "qwenops.toml", (1, 1))
    (tmp_path / "..data").symlink_to("v1")
    config = tmp_path / "qwenops.toml"
    config.symlink_to("..data/qwenops.toml")
    seen: list[str] = []
    news = asyncio.Event()

    async def note() -> None:
        seen.append(config.read_text())
        news.set()

    task = asyncio.create_task(watch([config], poll_s=0.01, changed=note))
    try:
        await asyncio.sleep(0.05)
        (tmp_path / "..new").symlink_to("v2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        await asyncio.wait_for(news.wait(), 5)
        news.clear()
        config.unlink()
        assert fingerprint(config) is None
        await asyncio.sleep(0.05)
        assert seen == ["a = 2"]
        config.write_text("a = 3")
        await asyncio.wait_for(news.wait(), 5)
        await asyncio.sleep(0.05)
    finally:
        task.cancel()
    assert seen == ["a = 2", "a = 3"]
