"""From a plan to utterances: who says what, in whose words, in which language.

A complaint that is only felt never uses the usual words of its class, so its details, explanations and remedies are
chosen without them too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.facts import Facts
from qwenops.calls.generator.identity import identify
from qwenops.calls.generator.numbers import draw_habit
from qwenops.calls.generator.options import Difficulty
from qwenops.calls.generator.pack import Exchange, Matter
from qwenops.calls.generator.people import draw_person
from qwenops.calls.generator.plan import Act, Move
from qwenops.calls.generator.scenario import Scenario, Telling
from qwenops.calls.generator.tongue import Tongue
from qwenops.calls.generator.words import Piece, Utterance, Words
from qwenops.calls.generator.world import OTHER, World
from qwenops.calls.schema import Role
from qwenops.text import Language

_CODE_SWITCHED = 0.3
"""Share of what a customer of a mixed call says in English."""
_FRAMED: Mapping[Move, tuple[Role, str]] = {
    Move.IVR: (Role.IVR, "ivr"),
    Move.GREETING: (Role.AGENT, "greeting"),
    Move.OPENING: (Role.CUSTOMER, "opening"),
    Move.FOR_SOMEONE: (Role.CUSTOMER, "for_someone"),
    Move.ONLY_ASKING: (Role.CUSTOMER, "only_asking"),
    Move.PROMISE: (Role.AGENT, "promise"),
    Move.ACCEPT: (Role.CUSTOMER, "accept"),
    Move.REFUSE: (Role.CUSTOMER, "refuse"),
    Move.WRAPUP: (Role.AGENT, "wrapup"),
    Move.GOODBYE: (Role.CUSTOMER, "goodbye"),
}
"""Acts that are one line of the frame."""
_ANSWERED: Mapping[Move, tuple[str, str]] = {
    Move.ANGER: ("anger", "sympathy"),
    Move.CALM: ("calm", "acknowledge"),
    Move.SARCASM: ("sarcasm", "sympathy"),
    Move.THREAT: ("threat", "sympathy"),
}
"""Acts of the customer that the agent answers, both with lines of the frame."""
_CUES: Mapping[Move, str] = {Move.SETTLED: "past", Move.TURNED: "decoy", Move.SECOND: "besides"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """All that was said in a call."""

    utterances: tuple[Utterance, ...]
    used: tuple[str, ...]
    """Lines of packs that were said, by source."""


@dataclass(slots=True, kw_only=True)
class _Talk:
    """A call while it is being worded."""

    scenario: Scenario
    world: World
    knobs: Difficulty
    tongue: Tongue
    dice: Dice

    def langs(self) -> dict[Role, str]:
        """Return which language each of them speaks in the next act."""
        if self.scenario.lang != "mixed":
            return dict.fromkeys(Role, self.scenario.lang)
        english = self.dice.happens(_CODE_SWITCHED)
        return {**dict.fromkeys(Role, "zh"), Role.CUSTOMER: "en" if english else "zh"}

    def matter(self, leaf: str, lang: str) -> Matter:
        """Return the words for a leaf; without one, those of a call that is no complaint."""
        pack = self.tongue.packs[lang]
        if leaf:
            return pack.leaves[leaf]
        return pack.other if self.scenario.leaf == OTHER else pack.none

    def similar(self, leaf: str) -> str:
        """Return a leaf that a leaf may be taken for; any other where none is known."""
        if leaf:
            return self.dice.by_weight(self.world.lexicon.leaves[leaf].mistaken)
        return self.dice.one_of(self.world.complaints)

    def term(self, name: str, lang: str, without: tuple[str, ...]) -> str | None:
        """Return what the trade calls a thing, if it can be said without certain words."""
        terms = self.world.lexicon.terms[lang][name]
        fitting = [term for term in terms if not any(word in term.lower() for word in without)]
        return self.dice.one_of(fitting) if fitting else None

    def without(self, leaf: str) -> tuple[str, ...]:
        """Return words that must not be used when the main matter is spoken of."""
        felt = self.scenario.telling is Telling.FELT and leaf == self.scenario.leaf
        return self.world.lexicon.leaves[leaf].usual if felt else ()


def word_call(scenario: Scenario, plan: tuple[Act, ...], world: World, knobs: Difficulty, seed: int) -> Spoken:
    """Return what is said in a call, before anything is heard wrongly."""
    dice = Dice(seed, scenario.index, "words")
    lexicon, lang = world.lexicon, "en" if scenario.lang == "en" else "zh"
    customer = Dice(seed, scenario.customer, "person")
    person = draw_person(customer, lexicon.names[lang], lexicon.area_codes, lang)
    written = dice.happens(0.5)
    tongue = Tongue(
        packs=world.packs[scenario.author],
        phrases=lexicon.phrases,
        facts={
            each: Facts(lang=each, names=names, written=written, dice=dice) for each, names in lexicon.names.items()
        },
        person=person,
        habit=draw_habit(customer),
        written=written,
        dice=dice,
    )
    talk = _Talk(scenario=scenario, world=world, knobs=knobs, tongue=tongue, dice=dice)
    utterances = [each for act in plan for each in _worded(talk, act) if each.words]
    return Spoken(utterances=tuple(utterances), used=tuple(tongue.used))


def _worded(talk: _Talk, act: Act) -> list[Utterance]:
    langs, name = talk.langs(), str(act)
    if act.move in _FRAMED:
        role, part = _FRAMED[act.move]
        return [_said(role, talk.tongue.framed(part, langs[role]), langs[role], name)]
    if act.move in _ANSWERED:
        first, second = _ANSWERED[act.move]
        return _pair(talk, langs, name, (Role.CUSTOMER, first), (Role.AGENT, second))
    if act.move in _CUES:
        return [_cue(talk, act, langs[Role.CUSTOMER])]
    if act.move is Move.IDENTITY:
        return identify(talk.tongue, act.kind, langs, talk.knobs, name)
    return _OTHERS[act.move](talk, act, langs)


def _state(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    """Return how the customer tells the main matter, for the first time or once more."""
    lang = langs[Role.CUSTOMER]
    matter = talk.matter(act.leaf, lang)
    lines = {Telling.FELT: matter.felt, Telling.ASKS: matter.asks}.get(talk.scenario.telling, matter.said)
    line = talk.tongue.fresh(lines)
    if line is None:
        return []
    told = _said(Role.CUSTOMER, talk.tongue.speak(line, lang), lang, str(act), main=True)
    return [told, _framed(talk, Role.AGENT, "acknowledge", langs, str(act))]


def _other_state(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    """Return how the customer tells another matter."""
    lang = langs[Role.CUSTOMER]
    matter = talk.matter(act.leaf, lang)
    line = talk.tongue.fresh(matter.felt if talk.dice.happens(talk.knobs.felt_share) else matter.said)
    return [_said(Role.CUSTOMER, talk.tongue.speak(line, lang), lang, str(act))] if line else []


def _detail(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    """Return a question of the agent and its answer; something neutral if none fits."""
    agent, customer = langs[Role.AGENT], langs[Role.CUSTOMER]
    without = talk.without(act.leaf) if act.leaf else ()
    pair = talk.tongue.fresh(talk.matter(act.leaf, customer).detail, without)
    if pair is None:
        return _pair(talk, langs, str(act), (Role.AGENT, "acknowledge"), (Role.CUSTOMER, "backchannel"))
    answer = _said(Role.CUSTOMER, talk.tongue.speak(pair.second, customer), customer, str(act))
    if agent == customer:
        return [_said(Role.AGENT, talk.tongue.speak(pair.first, agent), agent, str(act)), answer]
    return [_framed(talk, Role.AGENT, "acknowledge", langs, str(act)), answer]


def _name(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    """Return how the agent asks whether it is what the trade calls so; a wrong guess sounds like a right one."""
    right = talk.world.terms_of(act.leaf or talk.scenario.leaf)
    without = talk.without(act.leaf) if act.leaf else ()
    wrong = None
    if talk.dice.happens(talk.knobs.misjudged):
        wrong = talk.term(talk.world.terms_of(talk.similar(act.leaf)), langs[Role.AGENT], without)
    guess = wrong or talk.term(right, langs[Role.AGENT], without)
    answer = talk.term(right, langs[Role.CUSTOMER], without)
    if guess is None or answer is None:
        return []
    terms = (guess, answer)
    purposes = ("guess", "named_no" if wrong else "named_yes")
    return [
        _said(role, talk.tongue.phrase(purpose, langs[role], {"term": (Piece(term),)}), langs[role], str(act))
        for role, purpose, term in zip((Role.AGENT, Role.CUSTOMER), purposes, terms, strict=True)
    ]


def _explain(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    """Return what the agent says about the matter, or about rules in general."""
    lang = langs[Role.AGENT]
    matter = talk.matter(act.leaf, lang)
    remedy = act.move is Move.FIX and talk.scenario.complaint
    without = talk.without(act.leaf) if act.leaf else ()
    line = talk.tongue.fresh(matter.fix if remedy else matter.agent, without)
    if line is None:
        line = talk.tongue.fresh(talk.tongue.packs[lang].frame["objection"])
    told = [_said(Role.AGENT, talk.tongue.speak(line, lang), lang, str(act))] if line else []
    return [*told, _framed(talk, Role.CUSTOMER, "backchannel", langs, str(act))]


def _acknowledge(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    return _pair(talk, langs, str(act), (Role.AGENT, "acknowledge"), (Role.CUSTOMER, "backchannel"))


def _hold(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    lang = langs[Role.AGENT]
    wait_s = float(talk.dice.between(4, 45))
    asked = _said(Role.AGENT, talk.tongue.framed("hold", lang), lang, str(act), wait_s=wait_s)
    return [asked, _said(Role.AGENT, talk.tongue.phrase("thanks", lang), lang, str(act))]


def _chatter(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    lang = langs[Role.AGENT]
    pair = talk.tongue.fresh(talk.tongue.packs[lang].chatter)
    return _exchange(talk, pair, (Role.CUSTOMER, Role.AGENT), lang, str(act)) if pair else []


def _objection(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    return _pair(talk, langs, str(act), (Role.AGENT, "objection"), (Role.CUSTOMER, "backchannel"))


def _urgent(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    lang = langs[Role.CUSTOMER]
    told = _said(Role.CUSTOMER, talk.tongue.phrase("urgent", lang), lang, str(act))
    return [told, _framed(talk, Role.AGENT, "acknowledge", langs, str(act))]


def _offer(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    return _phrases(talk, act, langs, ("offer", "decline"), {})


def _read_label(talk: _Talk, act: Act, langs: Mapping[Role, str]) -> list[Utterance]:
    named: Language = "en" if langs[Role.AGENT] == "en" else "zh"
    label = talk.world.taxonomy.name_of(act.leaf, named)
    return _phrases(talk, act, langs, ("read_label", "label_yes"), {"label": (Piece(label),)})


_OTHERS: Mapping[Move, Callable[[_Talk, Act, Mapping[Role, str]], list[Utterance]]] = {
    Move.STATE: _state,
    Move.RESTATE: _state,
    Move.OTHER_STATE: _other_state,
    Move.DETAIL: _detail,
    Move.OTHER_DETAIL: _detail,
    Move.NAME: _name,
    Move.OTHER_NAME: _name,
    Move.EXPLAIN: _explain,
    Move.FIX: _explain,
    Move.ACKNOWLEDGE: _acknowledge,
    Move.HOLD: _hold,
    Move.CHATTER: _chatter,
    Move.OBJECTION: _objection,
    Move.URGENT: _urgent,
    Move.OFFER: _offer,
    Move.READ_LABEL: _read_label,
}


def _cue(talk: _Talk, act: Act, lang: str) -> Utterance:
    """Return the line that says what another matter has to do with the call."""
    short = talk.tongue.fresh(talk.tongue.packs[lang].leaves[act.leaf].short)
    named = talk.tongue.speak(short, lang) if short else ()
    words = talk.tongue.framed(_CUES[act.move], lang, {"short": named})
    return _said(Role.CUSTOMER, words, lang, str(act))


def _pair(
    talk: _Talk, langs: Mapping[Role, str], act: str, first: tuple[Role, str], second: tuple[Role, str]
) -> list[Utterance]:
    return [_framed(talk, *each, langs, act) for each in (first, second)]


def _phrases(
    talk: _Talk, act: Act, langs: Mapping[Role, str], purposes: tuple[str, str], extra: Mapping[str, Words]
) -> list[Utterance]:
    """Return a sentence of the agent and the customer's answer, both of no author."""
    return [
        _said(role, talk.tongue.phrase(purpose, langs[role], extra), langs[role], str(act))
        for role, purpose in zip((Role.AGENT, Role.CUSTOMER), purposes, strict=True)
    ]


def _framed(talk: _Talk, role: Role, part: str, langs: Mapping[Role, str], act: str) -> Utterance:
    return _said(role, talk.tongue.framed(part, langs[role]), langs[role], act)


def _exchange(talk: _Talk, pair: Exchange, roles: tuple[Role, Role], lang: str, act: str) -> list[Utterance]:
    return [
        _said(role, talk.tongue.speak(line, lang), lang, act)
        for role, line in zip(roles, (pair.first, pair.second), strict=True)
    ]


def _said(role: Role, words: Words, lang: str, act: str, *, main: bool = False, wait_s: float = 0.0) -> Utterance:
    return Utterance(role=role, words=words, lang=lang, act=act, main=main, wait_s=wait_s)
