"""One call after the other: scenario, plan, words, recognition, label.

Each call is made from the seed and its number alone, so any range of a million calls can be made by itself, on any
machine, and is the same. A copy of an earlier call makes that call anew, down to what was heard.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from qwenops.calls.generator.annotator import annotate
from qwenops.calls.generator.channel import Conditions, Heard, draw_conditions, hear, hear_again
from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.plan import Act, plan_call
from qwenops.calls.generator.scenario import (
    Beside,
    Copy,
    Original,
    Priors,
    Scenario,
    draw_scenario,
    original_of,
    priors_of,
)
from qwenops.calls.generator.surface import Spoken, word_call
from qwenops.calls.generator.transcript import Transcript, said_of, write_down
from qwenops.calls.generator.truth import Synthetic, Truth
from qwenops.calls.generator.world import World, load_world
from qwenops.calls.schema import Call, Label, LabelSource, Recognition
from qwenops.errors import ConfigError
from qwenops.text import say

AGENTS = 40
_SPECIALIST = 0
"""Number of the agent who handles one class only."""
_SPECIALIST_SHARE = 0.6
"""Of the calls of that class."""
_REHEARD = 0.006
"""Share of characters that a second pass of recognition writes differently."""
_MEDIA = re.compile(
    r"媒体|报社|报纸|记者|视频|网上|曝光|"
    r"\b(?:(?:news)?papers?|press|online|post|posting|video)\b"
)
_COURT = re.compile(r"起诉|法院|律师|法庭|\b(?:lawyer|court|sue|solicitor|attorney)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A call before it has an id: what was drawn, said and heard."""

    scenario: Scenario
    plan: tuple[Act, ...]
    spoken: Spoken
    conditions: Conditions
    heard: tuple[Heard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """What calls of given options are made with; opened by `open_generator`."""

    options: GeneratorOptions
    world: World
    priors: Priors

    def call(self, index: int) -> Synthetic:
        """Return the call of a number, from 0."""
        original = original_of(index, self.options.seed, self.options.difficulty)
        draft = self._draft(original.index if original else index)
        heard = draft.heard
        if original is not None and original.copy is Copy.NEAR:
            dice = Dice(self.options.seed, index, "again")
            heard = tuple(hear_again(heard, self.world.lexicon.confusions, dice, _REHEARD))
        return self._finished(index, draft, heard, original)

    def _draft(self, index: int) -> _Draft:
        options, world, knobs = self.options, self.world, self.options.difficulty
        scenario = draw_scenario(index, options, world, self.priors)
        plan = plan_call(scenario, knobs, Dice(options.seed, index, "plan"))
        spoken = word_call(scenario, plan, world, knobs, options.seed)
        dice = Dice(options.seed, index, "channel")
        conditions = draw_conditions(dice, options.noise, knobs.swapped, knobs.unknown_roles)
        heard = tuple(hear(spoken.utterances, conditions, world.lexicon.confusions, dice))
        return _Draft(scenario=scenario, plan=plan, spoken=spoken, conditions=conditions, heard=heard)

    def _finished(self, index: int, draft: _Draft, heard: tuple[Heard, ...], original: Original | None) -> Synthetic:
        seed, scenario = self.options.seed, draft.scenario
        dice = Dice(seed, scenario.index, "turns")
        transcript = write_down(heard, said_of(draft.spoken.utterances), draft.conditions, dice)
        call = self._call(index, draft, transcript)
        truth = self._truth(index, draft, transcript, original)
        label = Label(
            conversation_id=call.conversation_id,
            taxonomy=self.world.taxonomy.ref,
            primary=truth.annotated,
            secondary=truth.secondary if truth.annotated not in truth.secondary else (),
            axes=truth.axes,
            source=LabelSource.SYNTHETIC,
            annotator=truth.annotator,
            decided_at=scenario.started_at + timedelta(days=1, seconds=round(transcript.duration_s)),
        )
        return Synthetic(call=call, label=label, truth=truth)

    def _call(self, index: int, draft: _Draft, transcript: Transcript) -> Call:
        seed, scenario = self.options.seed, draft.scenario
        agent = _agent(scenario, self.options)
        return Call(
            conversation_id=self.conversation_id(index),
            customer_id=f"c-{_hashed(seed, 'customer', scenario.customer)}",
            agent_id=f"a-{_hashed(seed, 'agent', agent)}",
            channel="phone",
            lang=scenario.lang,
            started_at=scenario.started_at,
            duration_s=transcript.duration_s,
            turns=transcript.turns,
            asr=Recognition(engine="synthetic", version="1", mean_conf=transcript.confidence),
            meta={"synthetic": True},
        )

    def _truth(self, index: int, draft: _Draft, transcript: Transcript, original: Original | None) -> Truth:
        scenario = draft.scenario
        competing = scenario.competing
        second = competing is not None and competing.kind is Beside.SECOND
        # Whoever labels a copy reads it anew, so its label may differ from the original's.
        annotation = annotate(index, scenario, self.world, self.options.label_noise, self.options.seed)
        return Truth(
            conversation_id=self.conversation_id(index),
            index=index,
            leaf=scenario.leaf,
            annotated=annotation.leaf,
            annotator=annotation.annotator,
            secondary=(competing.leaf,) if competing is not None and second else (),
            axes={"urgency": "high" if scenario.urgent else "normal", "escalation": _escalation(draft)},
            author=scenario.author,
            lang=scenario.lang,
            month=scenario.month,
            telling=scenario.telling.value,
            about=scenario.about,
            keyword=_keyword(draft, self.world),
            hard_negative=scenario.hard_negative,
            decoy=competing.leaf if competing is not None and not second else "",
            competing=competing.kind.value if competing else "",
            mood=scenario.mood.value,
            label_read=scenario.read_label,
            specialist=_agent(scenario, self.options) == _SPECIALIST,
            noise=round(draft.conditions.noise, 4),
            word_error_rate=transcript.word_error_rate,
            pii=transcript.spans,
            evidence=transcript.evidence,
            duplicate_of=self.conversation_id(original.index) if original else "",
            duplicate=original.copy.value if original else "",
            plan=tuple(str(act) for act in draft.plan),
            lines=draft.spoken.used,
        )

    def conversation_id(self, index: int) -> str:
        """Return the id of the call of a number."""
        return f"synthetic-{self.options.seed}-{index:07d}"


def open_generator(options: GeneratorOptions) -> Generator:
    """Read all that calls are made from.

    Raises:
        ConfigError: An option is not possible.
        InvalidDataError: A file of ours is damaged.
    """
    options.languages()
    options.first_moment()
    world = load_world(options)
    for leaf in (options.difficulty.specialist, options.difficulty.late_leaf):
        if leaf and leaf not in world.complaints:
            raise ConfigError(
                say("{ref} has no complaint {leaf!r}.", ref=world.taxonomy.ref, leaf=leaf),
                hint=say("Use one of {codes}.", codes=", ".join(world.complaints)),
            )
    return Generator(options=options, world=world, priors=priors_of(options, world))


def generate(options: GeneratorOptions, *, first: int = 0, until: int | None = None) -> Iterator[Synthetic]:
    """Yield calls in the order of their numbers.

    Args:
        options: What calls, and how many.
        first: Number of the first one, from 0.
        until: Number after the last one; all that the options ask for when None.

    Raises:
        ConfigError: An option is not possible.
        InvalidDataError: A file of ours is damaged.
    """
    generator = open_generator(options)
    end = options.calls if until is None else min(until, options.calls)
    return (generator.call(index) for index in range(first, end))


def _hashed(*names: int | str) -> str:
    return hashlib.sha256(repr(names).encode()).hexdigest()[:12]


def _agent(scenario: Scenario, options: GeneratorOptions) -> int:
    dice = Dice(options.seed, scenario.index, "agent")
    if scenario.leaf == options.difficulty.specialist and dice.happens(_SPECIALIST_SHARE):
        return _SPECIALIST
    return dice.between(1, AGENTS - 1)


def _keyword(draft: _Draft, world: World) -> bool:
    """Say whether the customer named what the call is about, when telling it, with a usual word."""
    if not draft.scenario.about:
        return False
    text = "\n".join(each.text for each in draft.spoken.utterances if each.main).lower()
    return any(word in text for word in world.lexicon.leaves[draft.scenario.about].usual)


def _escalation(draft: _Draft) -> str:
    """Return with what the customer threatens."""
    threats = " ".join(each.text for each in draft.spoken.utterances if each.act == "threat").lower()
    if not draft.scenario.threat:
        return "none"
    if _COURT.search(threats):
        return "court"
    return "media" if _MEDIA.search(threats) else "regulator"
