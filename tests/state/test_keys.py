from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qwenops.errors import ConfigError
from qwenops.state.keys import ApiKey, Scope, digest, new_secret, parse_keys, read_keys_file

SECRET = "qo-" + "a1" * 32


def test_a_secret_has_256_random_bits_and_a_prefix_that_scanners_can_find() -> None:
    first, second = new_secret(), new_secret()
    assert first.startswith("qo-")
    assert len(bytes.fromhex(first.removeprefix("qo-"))) == 32
    assert first != second


def test_lines_with_and_without_names_comments_and_commas_are_read() -> None:
    keys = parse_keys(f"# for the call centre\n{SECRET}\n\nnight {SECRET}2 # batch\n,other {SECRET}3", source="here")
    assert [key.name for key in keys] == ["key-2", "night", "other"]
    assert keys[0].sha256 == digest(SECRET)
    assert keys[0].scopes == {Scope.INFERENCE}
    assert [key.name for key in parse_keys(f"{SECRET},shop {SECRET}2,{SECRET}3", source="here")] == [
        "key-1-1",
        "shop",
        "key-1-3",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"# rotated, bob {SECRET}",
        f"# rotated,{SECRET}",
        f"# rotated\u2028bob {SECRET}",
        f"# rotated\x0cbob {SECRET}",
        f"# rotated\rbob {SECRET}",
    ],
)
def test_a_key_in_a_comment_opens_nothing_whatever_stands_before_it(text: str) -> None:
    assert parse_keys(text, source="here") == []
    (key,) = parse_keys(f"{text}\r\nalice {SECRET}2\r\n", source="here")
    assert (key.name, key.sha256) == ("alice", digest(f"{SECRET}2"))


def test_a_wrong_line_is_named_by_its_number_in_the_file() -> None:
    for wrong in ("short", f"a b {SECRET}", f"fine {SECRET},short"):
        with pytest.raises(ConfigError, match="Line 4 of the API keys in here is wrong"):
            parse_keys(f"# shops\none {SECRET}2\n\n{wrong}\n", source="here")


def test_json_gives_scopes_limits_models_and_expiry_and_may_hold_only_the_hash() -> None:
    text = f"""[
      {{"name": "ops", "sha256": "{digest(SECRET)}", "scopes": ["admin", "metrics"], "concurrency": 2,
        "requests_per_min": 3, "tokens_per_min": 4, "models": ["qwen3:0.6b"], "expires_at": "2030-01-02T03:04:05"}}
    ]"""
    (key,) = parse_keys(text, source="here")
    assert key.sha256 == digest(SECRET)
    assert key.scopes == {Scope.ADMIN, Scope.METRICS}
    assert (key.limits.concurrency, key.limits.requests_per_min, key.limits.tokens_per_min) == (2, 3, 4)
    assert key.limits.models == ("qwen3:0.6b",)
    assert key.expires_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        f'[{{"key": "{SECRET}", "colour": "red"}}]',
        f'[{{"key": "{SECRET}", "scopes": ["root"]}}]',
        '[{"name": "no key at all"}]',
        '[{"sha256": "abc"}]',
        f'[{{"key": "{SECRET}", "expires_at": "soon"}}]',
        '[{"key": 12345678901234567890123456}]',
        f'[{{"key": "{SECRET}", "concurrency": -1}}]',
        f'[{{"key": "{SECRET}", "requests_per_min": -60}}]',
        f'[{{"key": "{SECRET}", "tokens_per_min": 0.5}}]',
        f'[{{"key": "{SECRET}", "tokens_per_min": false}}]',
        f'[{{"key": "{SECRET}", "models": "qwen3:0.6b"}}]',
    ],
)
def test_a_wrong_entry_is_refused_with_its_number_and_without_its_secret(text: str) -> None:
    with pytest.raises(ConfigError, match=r"Entry 1 .* in here is wrong") as caught:
        parse_keys(text, source="here")
    assert SECRET not in str(caught.value) + caught.value.hint


def test_json_that_cannot_be_read_is_refused_with_its_line_and_without_its_secret() -> None:
    with pytest.raises(ConfigError, match=r"Line 2 .* in here is wrong: it is not valid JSON") as caught:
        parse_keys(f'[\n{{"key": "{SECRET}"', source="here")
    assert SECRET not in str(caught.value) + caught.value.hint


def test_a_file_that_is_missing_or_not_text_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_keys_file(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="binary"):
        read_keys_file(tmp_path / "binary")


def test_a_key_is_valid_until_it_expires_or_is_revoked() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    key = ApiKey(id="1", name="n", sha256=digest(SECRET), created_at=now, expires_at=now + timedelta(hours=1))
    assert key.is_valid(now)
    assert not key.is_valid(now + timedelta(hours=1))
    revoked = ApiKey(id="1", name="n", sha256=digest(SECRET), created_at=now, revoked_at=now)
    assert not revoked.is_valid(now)
