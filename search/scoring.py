"""Asks a bundle every item of the search split, and of the retention set, in one job; a race may end it early."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeAlias

from hardware_profiles.agent.supervisor import Enough, run_job
from hardware_profiles.messages import Answer, Answered, Job, Request
from objectives.records import ScoredAnswer
from objectives.registry import Retained
from objectives.task import Task
from search.racing import Race
from spaces.sample import Sample

_SEARCH, _RETENTION = "search:", "retention:"
Ask: TypeAlias = Callable[[Sequence[Request], Enough], Answered]
"""Has requests answered by one bundle somewhere, until enough was heard."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """A set of another task that tuning must not make a model forget."""

    task: Task
    samples: Sequence[Sample]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a bundle answered.

    Attributes:
        samples, answers: in the order of the split; only the items up to which it was scored where it was ``raced``.
        retained: null without a retention set, and where the trial was raced out.
        how: how the answers came about, as the runtime says.
    """

    samples: Sequence[Sample]
    answers: Sequence[ScoredAnswer]
    retained: Retained | None
    how: Mapping[str, str]
    raced: bool


_WORTH = 0.1
"""Of the items, this share must be left for a lost race to end the scoring: else too little is saved for a result."""


class Scorer:
    """Scores bundles on one task's items, in one shuffled order: any prefix is then a fair sample."""

    def __init__(self, task: Task, items: Sequence[Sample], retention: Retention | None, seed: int) -> None:
        self.task = task
        self.items = items
        self._retention = retention
        self._by_id = {item.id: item for item in items}
        order = random.Random(f"{seed}:items").sample(items, len(items))
        kept = retention.samples if retention else ()
        self._requests = (*requests(order, _SEARCH), *requests(kept, _RETENTION, plain=True))

    def run(self, ask: Ask, race: Race | None = None) -> Scored:
        """Every item answered by the bundle behind ``ask``, or those up to which ``race`` was lost.

        Raises:
            Exception: what ``ask`` raises.
        """
        raced = False

        def lost(answers: Sequence[Answer]) -> bool:
            nonlocal raced
            for answer in answers:
                self._see(race, answer)
            raced = race is not None and race.lost and race.left > _WORTH * len(self.items)
            return raced

        result = ask(self._requests, lost)
        texts = {answer.id: answer.text for answer in result.answers}
        seen = [item for item in self.items if _SEARCH + item.id in texts]
        return Scored(
            samples=seen,
            answers=scored(seen, [texts[_SEARCH + item.id] for item in seen], self.task),
            retained=None if raced else self._retained(texts),
            how={name: value for name, value in result.properties.items() if name.startswith("scoring")},
            raced=raced,
        )

    def _see(self, race: Race | None, answer: Answer) -> None:
        if race is not None and answer.id.startswith(_SEARCH):
            item = self._by_id[answer.id.removeprefix(_SEARCH)]
            race.see(item.id, self.task.score(answer.text, item))

    def _retained(self, texts: Mapping[str, str]) -> Retained | None:
        if self._retention is None:
            return None
        task, samples = self._retention.task, self._retention.samples
        answers = [texts[_RETENTION + sample.id] for sample in samples]
        scores = [task.score(answer, sample) for answer, sample in zip(answers, samples, strict=True)]
        return Retained(task=task, samples=samples, answers=answers, scores=scores)


def on_host(bundle: Path, cancel: Event) -> Ask:
    """Asks a bundle on this machine; raises as :func:`hardware_profiles.agent.supervisor.run_job`."""

    def ask(asked: Sequence[Request], enough: Enough) -> Answered:
        job = Job(kind="answer", bundle=str(bundle), requests=tuple(asked))
        result = run_job(job, cancel=cancel, enough=enough)
        assert isinstance(result, Answered)
        return result

    return ask


def requests(samples: Sequence[Sample], prefix: str = "", *, plain: bool = False) -> tuple[Request, ...]:
    """The samples as a runner is asked them; ``prefix`` keeps the ids of several sets apart.

    ``plain`` rows are asked without hint and exemplars: those belong to another task.
    """
    return tuple(
        Request(
            id=prefix + sample.id,
            image=str(sample.image.resolve()),
            question=sample.question,
            fields=sample.fields,
            plain=plain,
        )
        for sample in samples
    )


def scored(samples: Sequence[Sample], texts: Sequence[str], task: Task) -> list[ScoredAnswer]:
    """Each sample's answer with its score."""
    return [
        ScoredAnswer(id=sample.id, answer=text, score=task.score(text, sample))
        for sample, text in zip(samples, texts, strict=True)
    ]


def score(result: Answered, samples: Sequence[Sample], task: Task) -> list[ScoredAnswer]:
    """Each sample's answer in a runner's result with its score, in the order of the samples."""
    texts = {answer.id: answer.text for answer in result.answers}
    return scored(samples, [texts[sample.id] for sample in samples], task)
