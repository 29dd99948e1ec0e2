"""What the commands about classifiers share: where things lie, and a classifier as a server wants it."""

import asyncio
import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qwenops.cli.terminal import Terminal
from qwenops.config import Settings
from qwenops.errors import ConfigError, InvalidRequestError
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.calls.schema import Call
    from qwenops.classify.prediction import Prediction
    from qwenops.classify.registry import Registered, Registry
    from qwenops.classify.score import Carried, Classifier, Form
    from qwenops.serve.champion import About, CarriedTurns, Judgement
    from qwenops.state.database import Database


def user_data(terminal: Terminal) -> Path:
    """Return the folder in which a user's data lies."""
    from qwenops.models.store import default_root

    return default_root(terminal.environ).parent


def open_registry(terminal: Terminal, made: Settings) -> "Registry":
    """Return the registry: the configured one, else the user's own."""
    from qwenops.classify.registry import Registry

    return Registry(root=made.classify.registry or user_data(terminal) / "registry")


def state_database(terminal: Terminal, made: Settings) -> Path:
    """Return the file of feedback, review queue and log: the configured one, else the user's own."""
    return made.state.database or user_data(terminal) / "calls.sqlite"


@contextmanager
def open_state(terminal: Terminal, made: Settings) -> "Iterator[Database]":
    """Yield the database of feedback, review queue and log, without what was kept as long as it may be."""
    from qwenops.state.database import open_database
    from qwenops.state.retention import expire

    with open_database(state_database(terminal, made)) as database:
        expire(database, made.state.retention)
        yield database


def redaction_secret(terminal: Terminal, made: Settings) -> bytes:
    """Return the secret under which ids of people become hashes: of the configured file, else of the user's own."""
    from qwenops.calls.secret import read_secret

    return read_secret(made.calls.secret_file or user_data(terminal) / "redaction.secret")


def actor(terminal: Terminal) -> str:
    """Return who gives this command, for the log."""
    environ = terminal.environ
    return environ.get("SUDO_USER") or environ.get("USER") or environ.get("LOGNAME") or f"uid {os.getuid()}"


def wanted_classifier(made: Settings) -> str:
    """Return the classifier that the settings name.

    Raises:
        ConfigError: They name none.
    """
    if made.classify.model:
        return made.classify.model
    raise ConfigError(
        say("No classifier was named."),
        hint=say("Name one with --classifier; `qwenops registry list` shows what there is."),
    )


async def open_classifier(found: "Registered", made: Settings, secret: bytes) -> "Classifier":
    """Open a classifier whose files were checked, with its engine.

    Raises:
        ModelLoadError: Its parts do not belong together, or the engine cannot use them.
        InsufficientMemoryError: It does not fit.
    """
    from qwenops.classify.score import Classifier, check_tokenizer, open_form
    from qwenops.engines.classifier import BATCH_TOKENS, open_scorer
    from qwenops.models.tokenizer import open_tokenizer

    form = await asyncio.to_thread(open_form, found.folder)
    tokenizer = await asyncio.to_thread(open_tokenizer, found.folder)
    await asyncio.to_thread(check_tokenizer, found.folder, form, tokenizer)
    options = dataclasses.replace(made.engine, max_batched_tokens=BATCH_TOKENS, model_name=found.ref)
    scorer = await open_scorer(found.folder, options)
    return Classifier(found.ref, form, tokenizer, scorer, secret=secret)


class Served:
    """A classifier as `serve` wants it."""

    def __init__(self, classifier: "Classifier", name: str) -> None:
        """Take it over."""
        self.about = about_of(name, classifier.ref, classifier.form)
        self._classifier = classifier

    async def classify(self, calls: "Sequence[Call]", *, evidence: bool = False) -> "Sequence[Judgement]":
        """Redact and judge calls, in their order.

        Raises:
            InvalidRequestError: In a call nobody says anything.
            EngineError: The engine failed.
        """
        prepared = await asyncio.to_thread(self._classifier.prepare, calls)
        if prepared.refused:
            first = prepared.refused[0]
            raise InvalidRequestError(
                first.reason, hint=say("Send calls in which somebody speaks."), param=f"input[{first.place}]"
            )
        predictions = await self._classifier.judge(prepared)
        found = []
        for call, prediction in zip(prepared.calls, predictions, strict=True):
            carried = await self._classifier.carried_by(call, prediction.primary) if evidence else None
            judged = judgement_of(call, prediction)
            found.append(judged if carried is None else dataclasses.replace(judged, carried=_turns(carried)))
        return found

    async def aclose(self) -> None:
        """Close the engine."""
        await self._classifier.aclose()


class RegistrySource:
    """Where a server gets classifiers: whatever a name of the registry points at."""

    def __init__(self, registry: "Registry", ref: str, made: Settings, secret: bytes) -> None:
        """Follow `ref`: a name (its champion), `NAME@ALIAS` or, without following, `NAME@VERSION`."""
        self.name, _, self._which = ref.partition("@")
        self._registry = registry
        self._made = made
        self._secret = secret

    def pointed(self) -> str:
        """Return the folder that is pointed at; empty where there is none yet.

        Raises:
            ModelNotFoundError: A version is wanted that is not there.
            ModelLoadError: The file of aliases is damaged.
        """
        from qwenops.classify.registry import CHAMPION

        pointers = self._registry.aliases(self.name).pointers
        alias = self._which or CHAMPION
        if alias in pointers:
            return pointers[alias].now
        return self._registry.find(f"{self.name}@{self._which}").key if self._which else ""

    async def open(self, key: str) -> Served:
        """Check every byte of a version and open it.

        Raises:
            ModelLoadError: A byte of it is not what was registered, or it cannot be used.
        """
        found = await asyncio.to_thread(self._registry.open, f"{self.name}@{key}")
        return Served(await open_classifier(found, self._made, self._secret), self.name)


def about_of(name: str, ref: str, form: "Form") -> "About":
    """Return what a classifier tells callers of itself."""
    from qwenops.serve.champion import About

    taxonomy = form.taxonomy
    return About(
        name=name,
        ref=ref,
        taxonomy=taxonomy.ref,
        classes=taxonomy.leaves,
        critical=form.critical,
        axes={code: tuple(value.code for value in axis.values) for code, axis in taxonomy.axes.items()},
        names={code: (each.name.zh, each.name.en) for code, each in taxonomy.classes.items()},
        budget_tokens=form.budget_tokens,
        warning=form.warning,
    )


def judgement_of(call: "Call", prediction: "Prediction") -> "Judgement":
    """Return a prediction in the words of `serve`."""
    from qwenops.serve.champion import Judgement

    return Judgement(
        call=call,
        label=prediction.primary,
        path=prediction.path,
        p=prediction.p,
        probabilities=prediction.probs,
        decision=prediction.decision.value,
        threshold=prediction.threshold,
        candidates=prediction.candidates,
        tokens=prediction.tokens or 0,
        latency_s=prediction.latency_s or 0.0,
    )


def _turns(carried: "Sequence[Carried]") -> "tuple[CarriedTurns, ...]":
    from qwenops.serve.champion import CarriedTurns

    return tuple(CarriedTurns(turns=each.turns, drop=each.drop) for each in carried)
