"""How personal data comes up: the agent asks, the customer answers at once or in parts, the agent reads it back.

whole       the number in one go
in parts    a few digits, "嗯", the next ones, the agent repeating them meanwhile
corrected   a few digits, wrong ones, "不对，是", the right ones
read back   all of it, or only the last four digits, which are no personal data
"""

from collections.abc import Mapping

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.options import Difficulty
from qwenops.calls.generator.tongue import KINDS, LONG, Tongue
from qwenops.calls.generator.words import Mark, Piece, Surface, Utterance, Words, joined
from qwenops.calls.schema import Role

_LAST = 4
_NO_LAST_FOUR = frozenset({"plate"})


def identify(tongue: Tongue, kind: str, langs: Mapping[Role, str], knobs: Difficulty, act: str) -> list[Utterance]:
    """Return the agent's question and all that follows from it.

    Args:
        tongue: The words of the call.
        kind: What is asked for, as the slots call it.
        langs: Which language each of them speaks.
        knobs: How often numbers come in parts.
        act: What the plan calls it.
    """
    agent, customer = langs[Role.AGENT], langs[Role.CUSTOMER]
    exchange = tongue.fresh(tongue.packs[customer].identity[kind])
    if exchange is None:
        return []
    asked = exchange if agent == customer else tongue.fresh(tongue.packs[agent].identity[kind]) or exchange
    talk = [_said(Role.AGENT, tongue.speak(asked.first, agent), agent, act)]
    answer = tongue.speak(exchange.second, customer)
    place = next((each for each, piece in enumerate(answer) if _is_long(piece, kind)), None)
    dice = tongue.dice
    if place is not None and dice.happens(knobs.split):
        talk += _in_parts(tongue, kind, answer, place, langs, act)
    elif place is not None and dice.happens(knobs.corrected):
        talk.append(_said(Role.CUSTOMER, _corrected(tongue, kind, answer, place, customer), customer, act))
    else:
        talk.append(_said(Role.CUSTOMER, answer, customer, act))
    if dice.happens(0.55):
        talk += _read_back(tongue, kind, langs, act)
    else:
        talk.append(_said(Role.AGENT, tongue.framed("acknowledge", agent), agent, act))
    return talk


def _is_long(piece: Piece, kind: str) -> bool:
    return kind in LONG and piece.mark is not None and piece.mark.kind == KINDS[kind]


def _in_parts(
    tongue: Tongue, kind: str, answer: Words, place: int, langs: Mapping[Role, str], act: str
) -> list[Utterance]:
    """Return an answer whose number comes part by part."""
    agent, customer = langs[Role.AGENT], langs[Role.CUSTOMER]
    piece = answer[place]
    parts = tongue.parts(kind, tongue.person.numbers[kind])
    echo = tongue.dice.happens(0.4)
    talk: list[Utterance] = []
    for number, part in enumerate(parts):
        words: list[Piece] = [*answer[:place]] if number == 0 else []
        words.append(_part(tongue, piece, part, customer))
        if number == len(parts) - 1:
            words.extend(answer[place + 1 :])
        talk.append(_said(Role.CUSTOMER, joined(words), customer, act))
        if number == len(parts) - 1:
            break
        heard = (_part(tongue, piece, part, agent),) if echo else tongue.phrase("go_on", agent)
        talk.append(_said(Role.AGENT, heard, agent, act))
    return talk


def _part(tongue: Tongue, whole: Piece, part: str, lang: str, *, corrected: bool = False) -> Piece:
    kind, value = (whole.mark.kind, whole.mark.value) if whole.mark else ("", "")
    mark = Mark(kind=kind, value=value, surface=Surface.SPLIT, corrected=corrected)
    return Piece(tongue.chunk(part, lang), mark)


def _corrected(tongue: Tongue, kind: str, answer: Words, place: int, lang: str) -> Words:
    """Return an answer in which the customer says some digits wrong and takes them back."""
    piece, dice = answer[place], tongue.dice
    parts = tongue.parts(kind, tongue.person.numbers[kind])
    slip = dice.between(min(1, len(parts) - 1), len(parts) - 1)
    between = " " if lang == "en" else ""
    start = [*parts[:slip], mistaken(parts[slip], dice)]
    wrong = _joined_parts(tongue, piece, start, lang, corrected=True)
    right = _joined_parts(tongue, piece, parts[slip:], lang)
    correction = tongue.phrase("correct", lang)
    return joined([*answer[:place], wrong, Piece(between), *correction, right, *answer[place + 1 :]])


def _joined_parts(tongue: Tongue, whole: Piece, parts: list[str], lang: str, *, corrected: bool = False) -> Piece:
    pieces = [_part(tongue, whole, part, lang, corrected=corrected) for part in parts]
    return Piece((" " if lang == "en" else "").join(piece.text for piece in pieces), pieces[0].mark)


def mistaken(part: str, dice: Dice) -> str:
    """Return some digits of which two changed places, or one is another."""
    place = dice.between(0, len(part) - 1)
    after = (place + 1) % len(part)
    if part[place] != part[after] and after > place:
        return part[:place] + part[after] + part[place] + part[after + 1 :]
    other = str((int(part[place]) + dice.between(1, 9)) % 10) if part[place].isdigit() else "0"
    return part[:place] + other + part[place + 1 :]


def _read_back(tongue: Tongue, kind: str, langs: Mapping[Role, str], act: str) -> list[Utterance]:
    agent, customer = langs[Role.AGENT], langs[Role.CUSTOMER]
    if kind in LONG - _NO_LAST_FOUR and tongue.dice.happens(0.3):
        last = Piece(tongue.chunk(tongue.person.numbers[kind][-_LAST:], agent))
        words = tongue.phrase("read_last", agent, {"last": (last,)})
    else:
        words = tongue.phrase("read_back", agent, {"value": (tongue.personal(kind, agent),)})
    return [
        _said(Role.AGENT, words, agent, act),
        _said(Role.CUSTOMER, tongue.phrase("read_yes", customer), customer, act),
    ]


def _said(role: Role, words: Words, lang: str, act: str) -> Utterance:
    return Utterance(role=role, words=words, lang=lang, act=act)
