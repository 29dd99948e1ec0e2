"""From a scenario to what happens in the call, act by act, before anybody finds words.

The plan is filled up to a length that was drawn beforehand, with acts that fit any class, so neither the length nor the
number of turns tells the class. Costs are rough numbers of tokens; Chinese and English lines of packs cost alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.options import Difficulty
from qwenops.calls.generator.scenario import Beside, Competing, Mood, Scenario


class Move(StrEnum):
    """What is done in one act."""

    IVR = "ivr"
    GREETING = "greeting"
    OPENING = "opening"
    FOR_SOMEONE = "for_someone"
    ONLY_ASKING = "only_asking"
    STATE = "state"
    """The customer tells the main matter."""
    RESTATE = "restate"
    """Once more, in other words."""
    DETAIL = "detail"
    NAME = "name"
    """The agent says what the trade calls it, and at times takes it for something else."""
    EXPLAIN = "explain"
    FIX = "fix"
    OTHER_STATE = "other_state"
    """The customer tells another matter in full."""
    OTHER_DETAIL = "other_detail"
    OTHER_NAME = "other_name"
    SETTLED = "settled"
    """The customer says that it was put right."""
    TURNED = "turned"
    """The customer says that it is not what the call is about."""
    SECOND = "second"
    """The customer says that it comes on top."""
    IDENTITY = "identity"
    ACKNOWLEDGE = "acknowledge"
    HOLD = "hold"
    CHATTER = "chatter"
    OBJECTION = "objection"
    ANGER = "anger"
    CALM = "calm"
    SARCASM = "sarcasm"
    THREAT = "threat"
    URGENT = "urgent"
    OFFER = "offer"
    READ_LABEL = "read_label"
    PROMISE = "promise"
    ACCEPT = "accept"
    REFUSE = "refuse"
    WRAPUP = "wrapup"
    GOODBYE = "goodbye"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One step of a call."""

    move: Move
    leaf: str = ""
    """Whose words are used."""
    kind: str = ""
    """Of an identity: what is asked for."""

    def __str__(self) -> str:
        """Return it as the truth about a call has it: `identity:phone`, `state:network.speed`."""
        return ":".join(each for each in (self.move.value, self.leaf or self.kind) if each)


_COST: dict[Move, int] = {
    Move.IVR: 35,
    Move.GREETING: 14,
    Move.OPENING: 10,
    Move.STATE: 30,
    Move.RESTATE: 30,
    Move.OTHER_STATE: 22,
    Move.DETAIL: 32,
    Move.OTHER_DETAIL: 32,
    Move.NAME: 18,
    Move.OTHER_NAME: 18,
    Move.EXPLAIN: 25,
    Move.FIX: 25,
    Move.IDENTITY: 48,
    Move.CHATTER: 32,
    Move.OBJECTION: 24,
    Move.PROMISE: 24,
    Move.OFFER: 22,
    Move.READ_LABEL: 18,
    Move.SETTLED: 18,
    Move.TURNED: 18,
    Move.SECOND: 18,
}
_COST_OF_OTHERS = 12
_FILLERS = {Move.OBJECTION: 3.0, Move.ACKNOWLEDGE: 3.0, Move.HOLD: 2.0, Move.CHATTER: 2.0, Move.IDENTITY: 2.0}
_MOST_DETAILS, _MOST_NAMES = 4, 4
_MOST_RESTATED = 2
_TOKENS_PER_RESTATEMENT = 400
_MORE_IDENTITIES = ("phone", "name", "address", "account", "id_card", "email", "bank_card")

Block = list[Act]


def plan_call(scenario: Scenario, knobs: Difficulty, dice: Dice) -> tuple[Act, ...]:
    """Return the acts of a call in order."""
    head = _head(scenario, dice)
    main = _main(scenario, dice)
    second = _other(scenario.competing, {Beside.SECOND}) if scenario.competing else []
    tail = _tail(scenario, dice)
    blocks = _blocks(scenario, knobs, dice)
    early: list[Block] = []
    if scenario.late:
        early = [blocks.pop() for _ in range(min(len(blocks), dice.between(1, 2)))]
        main = [Act(move=Move.ACKNOWLEDGE), *main]
    spent = _cost([*head, *main, *second, *tail]) + sum(_cost(block) for block in (*early, *blocks))
    blocks += _filling(scenario.tokens - spent, scenario, dice)
    if second and dice.happens(0.4):
        blocks.append(second)
        second = []
    return (*head, *_flat(early), *main, *_flat(dice.shuffled(blocks)), *second, *tail)


def _head(scenario: Scenario, dice: Dice) -> Block:
    acts = [Act(move=Move.IVR)] if dice.happens(0.25) else []
    acts += [Act(move=Move.GREETING), Act(move=Move.OPENING)] if dice.happens(0.85) else [Act(move=Move.GREETING)]
    if scenario.third_party:
        acts.append(Act(move=Move.FOR_SOMEONE))
    return acts


def _main(scenario: Scenario, dice: Dice) -> Block:
    """Return how the main matter comes up, with what was settled or turned away from."""
    acts = [Act(move=Move.STATE, leaf=scenario.about)]
    if scenario.only_asking:
        acts.insert(dice.between(0, 1), Act(move=Move.ONLY_ASKING))
    if scenario.competing is None:
        return acts
    before = _other(scenario.competing, {Beside.SETTLED, Beside.TURNED})
    if scenario.competing.kind is Beside.SETTLED and dice.happens(0.4):
        return [*acts, Act(move=Move.ACKNOWLEDGE), *before]
    return [*before, *acts]


def _other(competing: Competing, kinds: set[Beside]) -> Block:
    """Return how another matter is spoken of, if it is of one of these kinds."""
    if competing.kind not in kinds:
        return []
    told = [Act(move=Move.OTHER_STATE, leaf=competing.leaf)] if competing.full else []
    if competing.asked:
        told += [Act(move=move, leaf=competing.leaf) for move in (Move.OTHER_DETAIL, Move.OTHER_NAME)]
    cue = Act(move=Move(competing.kind.value), leaf=competing.leaf)
    return [cue, *told] if competing.kind is Beside.SECOND else [*told, cue]


def _blocks(scenario: Scenario, knobs: Difficulty, dice: Dice) -> list[Block]:
    """Return what happens besides, in any order: questions, explanations, identity, moods."""
    about = scenario.about
    asked = about if scenario.complaint else ""  # what is asked about a complaint would turn a question into one
    blocks = [[Act(move=Move.DETAIL, leaf=asked)] for _ in range(dice.count(knobs.details, _MOST_DETAILS))]
    blocks += [[Act(move=Move.NAME, leaf=about)] for _ in range(dice.count(knobs.named, _MOST_NAMES))]
    if dice.happens(knobs.explained):
        blocks.append([Act(move=Move.EXPLAIN, leaf=about)])
    restated = min(_MOST_RESTATED, scenario.tokens // _TOKENS_PER_RESTATEMENT)
    blocks += [[Act(move=Move.RESTATE, leaf=about)] for _ in range(restated)]
    blocks += [[Act(move=Move.IDENTITY, kind=kind)] for kind in scenario.identities]
    moods = {Mood.ANGRY: Move.ANGER, Mood.CALM: Move.CALM, Mood.SARCASTIC: Move.SARCASM}
    if scenario.mood is not Mood.NEUTRAL:
        blocks += [[Act(move=moods[scenario.mood])] for _ in range(dice.between(1, 3))]
    told = {Move.THREAT: scenario.threat, Move.URGENT: scenario.urgent, Move.OFFER: scenario.offer}
    blocks += [[Act(move=move)] for move, happens in told.items() if happens]
    return dice.shuffled(blocks)


def _filling(tokens: int, scenario: Scenario, dice: Dice) -> list[Block]:
    """Return acts of about so many tokens that fit any class."""
    blocks: list[Block] = []
    kinds = dice.shuffled([kind for kind in _MORE_IDENTITIES if kind not in scenario.identities])
    while tokens > _COST_OF_OTHERS:
        move = dice.by_weight(_FILLERS)
        if move is Move.IDENTITY and not kinds:
            move = Move.CHATTER
        act = Act(move=move, kind=kinds.pop() if move is Move.IDENTITY else "")
        blocks.append([act])
        tokens -= _cost([act])
    return blocks


def _tail(scenario: Scenario, dice: Dice) -> Block:
    acts = [Act(move=Move.READ_LABEL, leaf=scenario.leaf)] if scenario.read_label else []
    acts.append(Act(move=Move.PROMISE))
    if not scenario.accepted:
        acts += [Act(move=Move.REFUSE), Act(move=Move.PROMISE)]
    if scenario.fixed:
        acts.append(Act(move=Move.FIX, leaf=scenario.about))
    acts.append(Act(move=Move.ACCEPT))
    if dice.happens(0.9):
        acts += [Act(move=Move.WRAPUP), Act(move=Move.GOODBYE)]
    return acts


def _cost(acts: Sequence[Act]) -> int:
    return sum(_COST.get(act.move, _COST_OF_OTHERS) for act in acts)


def _flat(blocks: Sequence[Block]) -> Block:
    return [act for block in blocks for act in block]
