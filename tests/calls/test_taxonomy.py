"""Taxonomies: the presets are whole, a wrong file is told all at once with lines, and versions lead on or stop."""

from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.calls.classes import ClassSeverity, Taxonomy, parse_ref
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.schema import Label
from qwenops.calls.taxonomy import MOST_LEAVES, load, presets
from qwenops.errors import ConfigError, InvalidDataError
from qwenops.text import LANGUAGES

HEAD = "schema: qwenops.taxonomy/1\nname: mine\nversion: 3\ntitle: Mine\n"
CLASSES = """classes:
- code: a
  name: {zh: 甲, en: A}
  severity: high
  children:
  - {code: a.x, name: {zh: 甲一, en: First}, description: d}
  - {code: a.y, name: {zh: 甲二, en: Second}, description: d, severity: low}
- code: none
  name: 咨询
  complaint: false
  children:
  - {code: none.ask, name: 问, description: d}
- {code: other, name: 其他, description: d, review: true}
axes:
- code: urgency
  name: 紧急
  values: [{code: normal, name: 一般}, {code: high, name: 急}]
"""
MIGRATIONS = """migrations:
- {from: 1, to: 2, map: {old.x: mid.x, old.z: a.y}, split: {old.s: [mid.x, a.y]}}
- {from: 2, to: 3, map: {mid.x: a.x}}
"""


def loaded(folder: Path, text: str) -> Taxonomy:
    path = folder / "mine.yaml"
    path.write_text(text, "utf-8")
    return load(path)


def problems(folder: Path, text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(InvalidDataError) as caught:
        loaded(folder, text)
    assert all(str(folder) in each.source for each in caught.value.problems)
    return [(each.line, each.field) for each in caught.value.problems]


@pytest.fixture
def mine(tmp_path: Path) -> Taxonomy:
    return loaded(tmp_path, HEAD + CLASSES + MIGRATIONS)


def label(primary: str, *, taxonomy: str = "mine@1", secondary: tuple[str, ...] = (), **axes: str) -> Label:
    return Label(conversation_id="c1", taxonomy=taxonomy, primary=primary, secondary=secondary, axes=axes)


class TestPresets:
    def test_there_are_four(self) -> None:
        assert presets() == ("bank-cn", "hotline-cn", "market-cn", "telecom-cn")

    @pytest.mark.parametrize("name", presets())
    def test_each_is_named_as_its_file_and_leaves_nothing_to_warn_of(self, name: str) -> None:
        taxonomy = load(name)
        assert taxonomy.name == name
        assert taxonomy.warnings == ()
        assert taxonomy.source

    @pytest.mark.parametrize("name", presets())
    def test_each_speaks_two_languages_and_gives_examples_for_every_leaf(self, name: str) -> None:
        taxonomy = load(name)
        for each in taxonomy.classes.values():
            assert each.name.zh != each.name.en
            assert each.description.zh != each.description.en
        for code in taxonomy.leaves:
            assert set(taxonomy.class_of(code).examples) == set(LANGUAGES), code

    @pytest.mark.parametrize("name", presets())
    def test_in_each_no_two_leaves_have_one_name(self, name: str) -> None:
        taxonomy = load(name)
        for language in LANGUAGES:
            for code in taxonomy.leaves:
                assert taxonomy.leaves_called(taxonomy.name_of(code, language)) == (code,)

    def test_telecom_has_enough_complaints_and_the_two_that_are_none(self) -> None:
        taxonomy = load("telecom-cn@2")
        complaints = [code for code in taxonomy.leaves if taxonomy.is_complaint(code) and not taxonomy.is_review(code)]
        assert len(complaints) >= 18
        assert not taxonomy.is_complaint("none.inquiry")
        assert taxonomy.is_review("other")
        assert taxonomy.severity_of("service.privacy") is ClassSeverity.CRITICAL

    def test_labels_of_the_first_telecom_version_follow_or_wait_for_a_person(self) -> None:
        taxonomy = load("telecom-cn")
        old = label("billing.package", taxonomy="telecom-cn@1")
        assert taxonomy.migrate(old) == replace(old, taxonomy="telecom-cn@2", primary="billing.plan_fee")
        assert isinstance(taxonomy.migrate(replace(old, primary="service.marketing")), Problem)

    def test_another_version_of_a_preset_is_not_taken_for_it(self) -> None:
        with pytest.raises(ConfigError, match="telecom-cn@2 is what comes with qwenops, not telecom-cn@9"):
            load("telecom-cn@9")

    def test_an_unknown_name_is_told_the_known_ones(self) -> None:
        with pytest.raises(ConfigError, match="'telekom'; there are bank-cn, hotline-cn"):
            load("telekom")


class TestClasses:
    def test_the_tree_is_as_it_was_written(self, mine: Taxonomy) -> None:
        assert mine.ref == "mine@3"
        assert mine.leaves == ("a.x", "a.y", "none.ask", "other")
        assert mine.path_of("a.x") == ("a", "a.x")
        assert (mine.parent_of("a.x"), mine.parent_of("a")) == ("a", None)
        assert mine.leaves_under("a") == ("a.x", "a.y")
        assert (mine.name_of("a.x", "zh"), mine.name_of("a.x", "en"), mine.name_of("other", "en")) == (
            "甲一",
            "First",
            "其他",
        )

    def test_what_a_class_is_holds_for_those_below_until_one_says_otherwise(self, mine: Taxonomy) -> None:
        assert (mine.severity_of("a.x"), mine.severity_of("a.y")) == (ClassSeverity.HIGH, ClassSeverity.LOW)
        assert (mine.is_complaint("none.ask"), mine.is_complaint("a.x")) == (False, True)
        assert (mine.is_review("other"), mine.is_review("a.x")) == (True, False)

    def test_leaves_are_found_by_code_and_by_name_whatever_their_case_and_width(self, mine: Taxonomy) -> None:
        assert mine.leaves_called("first") == mine.leaves_called("\uff21.X") == mine.leaves_called(" 甲一 ") == ("a.x",)
        assert mine.leaves_called("a") == ()

    def test_an_unknown_class_is_told_those_that_are_alike(self, mine: Taxonomy) -> None:
        with pytest.raises(InvalidDataError) as caught:
            mine.class_of("a.z")
        assert "mine@3" in caught.value.message
        assert "a.x" in caught.value.hint

    @pytest.mark.parametrize("ref", ["mine", "mine@", "mine@0", "mine@x", "@1", "a b@1"])
    def test_a_reference_needs_name_and_version(self, ref: str) -> None:
        assert parse_ref(ref) is None
        assert parse_ref("mine@12") == ("mine", 12)


class TestMigration:
    def test_codes_follow_through_all_versions(self, mine: Taxonomy) -> None:
        assert mine.migrate(label("old.x")) == label("a.x", taxonomy="mine@3")
        assert mine.migrate(label("mid.x", taxonomy="mine@2")) == label("a.x", taxonomy="mine@3")
        assert mine.migrate(label("none.ask")) == label("none.ask", taxonomy="mine@3")

    def test_a_label_of_this_version_stays_as_it_is(self, mine: Taxonomy) -> None:
        own = label("a.x", taxonomy="mine@3", secondary=("a.y",), urgency="high")
        assert mine.migrate(own) == own

    def test_classes_that_became_one_are_named_once(self, mine: Taxonomy) -> None:
        moved = mine.migrate(label("old.z", secondary=("a.y", "old.x")))
        assert moved == label("a.y", taxonomy="mine@3", secondary=("a.x",))

    def test_what_a_model_had_said_follows_as_far_as_it_can(self, mine: Taxonomy) -> None:
        moved = mine.migrate(replace(label("old.x"), predicted="old.z"))
        assert isinstance(moved, Label)
        assert moved.predicted == "a.y"

    @pytest.mark.parametrize(
        ("old", "field", "said"),
        [
            (label("old.s"), "primary", "choose among a.x, a.y"),
            (label("a.x", secondary=("a.y", "old.s")), "secondary[1]", "was split"),
            (label("gone"), "primary", "mine@3 has no class 'gone'; the nearest are "),
            (label("a"), "primary", "has classes below it: a.x, a.y"),
            (label("a.x", taxonomy="other@1"), "taxonomy", "'other@1'"),
            (label("a.x", taxonomy="mine"), "taxonomy", "not about mine@3; name the taxonomy"),
            (label("a.x", taxonomy="mine@4"), "taxonomy", "later than mine@3; name the file of mine@4"),
            (label("a.x", mood="bad"), "axes.mood", "no axis 'mood'"),
            (label("a.x", urgency="very"), "axes.urgency", "none of normal, high"),
        ],
    )
    def test_what_cannot_follow_is_a_problem_and_never_guessed(
        self, mine: Taxonomy, old: Label, field: str, said: str
    ) -> None:
        found = mine.migrate(old)
        assert isinstance(found, Problem)
        assert (found.conversation_id, found.field, said in found.what) == ("c1", field, True)

    def test_versions_without_a_migration_between_them_do_not_meet(self, tmp_path: Path) -> None:
        found = loaded(tmp_path, HEAD + CLASSES).migrate(label("a.x"))
        assert isinstance(found, Problem)
        assert "No migration leads from mine@1 to mine@3; write one under `migrations`" in found.what


class TestWrongFiles:
    def test_everything_wrong_is_said_at_once_with_its_line(self, tmp_path: Path) -> None:
        text = """schema: qwenops.taxonomy/9
name: My Own
version: two
colour: red
classes:
- code: a
  name: A
  severity: deadly
  children:
  - {code: b.x, name: X}
  - {code: a.x, name: {fr: X}, complaint: perhaps}
  - {code: a.x, name: X}
- name: nameless
- code: b.y
  name: Y
  children: none
axes:
- {code: u, name: U, values: [{code: v, name: V}]}
"""
        assert problems(tmp_path, text) == [
            (4, "colour"),
            (1, ""),
            (1, "schema"),
            (2, "name"),
            (3, "version"),
            (8, "classes[0].severity"),
            (10, "classes[0].children[0].code"),
            (11, "classes[0].children[1].complaint"),
            (11, "classes[0].children[1].name.fr"),
            (12, "classes[0].children[2].code"),
            (13, "classes[1]"),
            (14, "classes[2].code"),
            (16, "classes[2].children"),
            (18, "axes[0].values"),
        ]

    @pytest.mark.parametrize("text", ["", "[]", "just a text", "classes: []"])
    def test_what_is_no_taxonomy_at_all_is_an_error(self, tmp_path: Path, text: str) -> None:
        assert problems(tmp_path, text)

    def test_an_empty_place_in_the_tree_is_no_class(self, tmp_path: Path) -> None:
        assert problems(tmp_path, HEAD + "classes:\n-\n- {code: a, name: A}\n- {code: b, name: B}\n") == [
            (6, "classes[0]")
        ]

    def test_a_tree_that_contains_itself_is_refused(self, tmp_path: Path) -> None:
        text = HEAD + "classes:\n- &a\n  code: a\n  name: A\n  children: [*a]\n"
        assert (9, "") in problems(tmp_path, text)

    def test_more_classes_than_a_model_can_tell_apart_are_refused(self, tmp_path: Path) -> None:
        rows = [f"- {{code: c{number}, name: C, description: d}}\n" for number in range(MOST_LEAVES + 1)]
        assert problems(tmp_path, HEAD + "classes:\n" + "".join(rows)) == [(6, "classes")]
        assert len(loaded(tmp_path, HEAD + "classes:\n" + "".join(rows[1:])).leaves) == MOST_LEAVES

    @pytest.mark.parametrize(
        ("migrations", "line", "said"),
        [
            ("- {from: 3, to: 2}", 23, "leads to a higher version"),
            ("- {from: 2, to: 2}", 23, "leads to a higher version"),
            ("- {from: 3, to: 4}", 23, "leads to a higher version"),
            ("- {from: 1, to: 2}", 23, "leads on from version 2"),
            ("- {from: 2, to: 3}\n- {from: 2, to: 3}", 24, "stands there already"),
            ("- {from: 2, to: 3, map: {q: nowhere}}", 23, "leads to nowhere"),
            ("- {from: 2, to: 3, map: {q: a}}", 23, "leads to a,"),
            ("- {from: 2, to: 3, split: {q: [a.x]}}", 23, "At least two"),
            ("- {from: 2, to: 3, map: {q: a.x}, split: {q: [a.x, a.y]}}", 23, "both renamed and split"),
            ("- {from: 2}", 23, "field to is missing"),
        ],
    )
    def test_migrations_lead_up_and_arrive(self, tmp_path: Path, migrations: str, line: int, said: str) -> None:
        with pytest.raises(InvalidDataError) as caught:
            loaded(tmp_path, HEAD + CLASSES + "migrations:\n" + migrations + "\n")
        assert [(each.line, said in each.what) for each in caught.value.problems] == [(line, True)]

    def test_a_migration_may_end_in_a_later_one_that_splits(self, tmp_path: Path) -> None:
        text = "migrations:\n- {from: 1, to: 2, map: {old: mid}}\n- {from: 2, to: 3, split: {mid: [a.x, a.y]}}\n"
        found = loaded(tmp_path, HEAD + CLASSES + text).migrate(label("old"))
        assert isinstance(found, Problem)
        assert "a.x, a.y" in found.what

    def test_what_is_only_unwise_is_a_warning(self, tmp_path: Path) -> None:
        taxonomy = loaded(tmp_path, HEAD + "classes:\n- {code: a, name: A}\n- {code: b, name: B, description: d}\n")
        assert [(each.line, each.severity) for each in taxonomy.warnings] == [(6, Severity.WARNING)] * 3
