"""What comes out is what was promised: the same calls from the same seed, exact truth, labels as wrong as asked for."""

from collections import Counter, defaultdict
from dataclasses import replace
from statistics import fmean, median

import pytest

from qwenops.calls import taxonomy
from qwenops.calls.generator.generate import Generator, generate, open_generator
from qwenops.calls.generator.options import Difficulty, GeneratorOptions
from qwenops.calls.generator.truth import Synthetic
from qwenops.calls.generator.words import Surface
from qwenops.calls.generator.world import authors
from qwenops.calls.schema import Role, dump, parse_call, parse_label
from qwenops.errors import ConfigError
from tests.calls.generator.made import MANY, calls, opened, with_knobs

COMPLAINTS = {"said", "felt"}


def test_the_same_seed_gives_the_same_calls_and_another_gives_others() -> None:
    options = GeneratorOptions(calls=12, seed=3)
    first, again = list(generate(options)), list(generate(options))
    assert first == again
    other = list(generate(replace(options, seed=4)))
    assert all(one.call.turns != two.call.turns for one, two in zip(first, other, strict=True))


def test_a_call_depends_on_seed_and_number_only() -> None:
    whole = calls()
    assert opened().call(417) == whole[417]
    assert list(generate(opened().options, first=100, until=103)) == list(whole[100:103])
    # How many calls are asked for changes none of them.
    assert next(iter(generate(replace(opened().options, calls=1)))) == whole[0]


def test_lines_read_back_as_they_were() -> None:
    for each in calls()[:100]:
        assert parse_call(dump(each.call)) == each.call
        assert parse_label(dump(each.label)) == each.label


def test_labels_are_of_the_taxonomy() -> None:
    known = taxonomy.load("telecom-cn")
    for each in calls():
        assert known.migrate(each.label) == each.label
        assert each.truth.leaf in known.leaves
        assert each.label.conversation_id == each.call.conversation_id == each.truth.conversation_id


def test_ids_are_unique_and_tell_nothing() -> None:
    assert len({each.call.conversation_id for each in calls()}) == MANY
    by_agent: dict[str, set[str]] = defaultdict(set)
    for each in calls():
        by_agent[each.call.agent_id].add(each.truth.leaf)
        assert each.call.customer_id.startswith("c-")
        assert each.call.meta == {"synthetic": True}
    (specialist,) = {each.call.agent_id for each in calls() if each.truth.specialist}
    assert by_agent.pop(specialist) == {"network.broadband_fault"}
    assert median(len(leaves) for leaves in by_agent.values()) > 5


def test_spans_lie_within_their_turns_and_do_not_overlap() -> None:
    for each in calls():
        ends: dict[int, int] = {}
        for span in each.truth.pii:
            text = each.call.turns[span.turn].text
            assert ends.get(span.turn, 0) <= span.start < span.end <= len(text)
            assert text[span.start : span.end].strip() == text[span.start : span.end] != ""
            ends[span.turn] = span.end


def test_every_number_of_a_customer_is_marked_wherever_it_stands() -> None:
    """Whoever finds a number in the text that the truth does not know has found a hole in the truth."""
    found = 0
    for each in calls():
        values = {span.value for span in each.truth.pii if span.surface is Surface.DIGITS}
        for place, turn in enumerate(each.call.turns):
            spans = [(span.start, span.end) for span in each.truth.pii if span.turn == place]
            for value in values:
                start = turn.text.find(value)
                while start >= 0:
                    assert any(low <= start and start + len(value) <= high for low, high in spans)
                    found += 1
                    start = turn.text.find(value, start + 1)
    assert found > 50


def test_all_kinds_and_surfaces_of_personal_data_occur() -> None:
    spans = [span for each in calls() for span in each.truth.pii]
    kinds, surfaces = Counter(span.kind for span in spans), Counter(span.surface for span in spans)
    assert {"PHONE", "NAME", "ID_CARD", "BANK_CARD", "ADDRESS", "EMAIL", "ACCOUNT"} <= kinds.keys()
    assert set(surfaces) == set(Surface)
    assert min(surfaces.values()) > 20
    assert any(span.corrected for span in spans)
    assert fmean(span.intact for span in spans) > 0.85


def test_a_clean_channel_leaves_every_span_intact() -> None:
    spans = [span for each in calls(noise=0.0) for span in each.truth.pii]
    assert spans
    assert all(span.intact for span in spans)
    assert all(each.truth.word_error_rate == 0 for each in calls(noise=0.0))


def test_more_noise_changes_what_is_heard_and_not_what_was_said() -> None:
    for clean, noisy in zip(calls(noise=0.0), calls(), strict=True):
        assert clean.truth.lines == noisy.truth.lines
        assert clean.truth.plan == noisy.truth.plan
        assert clean.label == replace(noisy.label, decided_at=clean.label.decided_at)
    changed = [clean.call.turns != noisy.call.turns for clean, noisy in zip(calls(noise=0.0), calls(), strict=True)]
    assert fmean(changed) > 0.95


def test_noise_is_what_was_asked_for_and_confidence_goes_against_it() -> None:
    rates = [each.truth.word_error_rate for each in calls()]
    assert fmean(rates) == pytest.approx(0.08, rel=0.35)
    ordered = sorted(calls(), key=lambda each: each.truth.word_error_rate)
    confidence = [each.call.asr.mean_conf or 0.0 for each in ordered if each.call.asr]
    assert fmean(confidence[:100]) > fmean(confidence[-100:]) + 0.03


def test_labels_are_wrong_as_often_as_asked_and_more_in_hard_classes() -> None:
    generator = open_generator(GeneratorOptions(calls=3000, seed=5, label_noise=0.1))
    made = [generator.call(index).truth for index in range(3000)]
    wrong = [each.leaf != each.annotated for each in made]
    assert fmean(wrong) == pytest.approx(0.1, abs=0.025)
    hard = [each.leaf != each.annotated for each in made if each.leaf in {"service.unresolved", "service.mis_selling"}]
    easy = [
        each.leaf != each.annotated for each in made if each.leaf in {"network.broadband_fault", "network.messages"}
    ]
    assert fmean(hard) > fmean(easy)
    clean = open_generator(GeneratorOptions(calls=50, label_noise=0.0))
    assert all(each.truth.leaf == each.label.primary for each in map(clean.call, range(50)))


def test_copies_are_copies() -> None:
    generator = with_knobs(near_duplicates=0.2, exact_duplicates=0.1)
    made = [generator.call(index) for index in range(300)]
    by_id = {each.call.conversation_id: each for each in made}
    copies = [each for each in made if each.truth.duplicate_of]
    assert {each.truth.duplicate for each in copies} == {"near", "exact"}
    for each in copies:
        original = by_id[each.truth.duplicate_of]
        assert original.call.customer_id == each.call.customer_id
        assert original.truth.leaf == each.truth.leaf
        if each.truth.duplicate == "exact":
            assert original.call == replace(each.call, conversation_id=original.call.conversation_id)
        else:
            assert _jaccard(original, each) >= 0.8
    near = [each for each in copies if each.truth.duplicate == "near"]
    assert fmean(by_id[each.truth.duplicate_of].call.turns != each.call.turns for each in near) > 0.6


def test_calls_that_are_no_copies_are_different() -> None:
    texts = Counter("".join(turn.text for turn in each.call.turns) for each in calls() if not each.truth.duplicate)
    assert max(texts.values()) == 1


def test_the_usual_words_come_in_about_half_of_the_complaints() -> None:
    named = [each.truth.keyword for each in calls() if each.truth.telling in COMPLAINTS]
    assert 0.4 < fmean(named) < 0.7
    # And in calls that are no complaints about it.
    assert fmean(each.truth.keyword for each in calls() if each.truth.telling == "asks") > 0.5


def test_the_agent_reads_the_class_out_in_a_few_calls() -> None:
    known = taxonomy.load("telecom-cn")
    read = [each for each in calls(noise=0.0) if each.truth.label_read]
    assert 0.02 < len(read) / MANY < 0.09
    for each in read:
        text = " ".join(turn.text for turn in each.call.turns).lower()
        assert any(known.name_of(each.truth.leaf, lang).lower() in text for lang in ("zh", "en"))


def test_lengths_spread_and_stay_below_the_limit() -> None:
    lengths = [sum(len(turn.text) for turn in each.call.turns) for each in calls() if each.truth.lang == "zh"]
    turns = [len(each.call.turns) for each in calls()]
    assert max(lengths) > 3 * median(lengths)
    assert max(lengths) < 4500
    assert 8 < median(turns) < 60


def test_evidence_is_said_by_the_customer_in_the_words_of_the_class() -> None:
    for each in calls(noise=0.0):
        assert each.truth.evidence
        roles = {each.call.turns[place].role for place in each.truth.evidence}
        assert roles <= {Role.CUSTOMER, Role.UNKNOWN}


def test_speakers_are_sometimes_not_told_apart() -> None:
    unknown = [each for each in calls() if {turn.role for turn in each.call.turns} == {Role.UNKNOWN}]
    assert 0 < len(unknown) < 0.1 * MANY


def test_nothing_of_the_author_or_the_class_stands_in_what_is_given_out() -> None:
    for each in calls():
        facts = dump(replace(each.call, turns=()))
        assert each.truth.author not in facts
        assert each.truth.leaf not in facts


def test_slots_and_markup_never_come_through() -> None:
    for each in calls():
        for turn in each.call.turns:
            assert not set("{}[]|") & set(turn.text)
            assert turn.text == turn.text.strip() != ""


def test_one_author_can_be_asked_for_and_a_stranger_cannot() -> None:
    made = list(generate(GeneratorOptions(calls=20, authors=authors()[:1])))
    assert {each.truth.author for each in made} == set(authors()[:1])
    assert all(line.startswith((f"{authors()[0]}/", "phrases/")) for line in made[0].truth.lines)
    with pytest.raises(ConfigError, match="no author 'nobody'"):
        next(generate(GeneratorOptions(authors=("nobody",))))


def test_difficulty_moves_what_it_names() -> None:
    plain: Generator = with_knobs(felt_share=0.0, competing_share=0.0)
    hard: Generator = open_generator(
        GeneratorOptions(calls=MANY, seed=3, difficulty=Difficulty(felt_share=1.0, competing_share=1.0))
    )
    easy_calls = [plain.call(index).truth for index in range(200)]
    hard_calls = [hard.call(index).truth for index in range(200)]
    assert not any(each.competing for each in easy_calls)
    assert all(each.competing for each in hard_calls)
    assert not any(each.telling == "felt" for each in easy_calls)
    assert not any(each.telling == "said" for each in hard_calls)


def _jaccard(one: Synthetic, other: Synthetic) -> float:
    first, second = _shingles(one), _shingles(other)
    return len(first & second) / len(first | second)


def _shingles(made: Synthetic) -> set[str]:
    text = "".join(turn.text for turn in made.call.turns)
    return {text[place : place + 5] for place in range(len(text) - 4)}
