"""Opens a run's study again; where its journal no longer has the run's finished trials, makes it anew from them."""

from collections.abc import Sequence
from contextlib import suppress

from objectives.run import RunFolder
from search.study import Study
from spaces.space import Space


def open_study(run: RunFolder, space: Space, directions: Sequence[str], seed: int, sampler: str = "tpe") -> Study:
    """The run's study, in which every finished trial of the run was at least asked for, under its own number.

    A damaged journal is kept as ``study.journal.damaged``. The caller holds the right to write the run.

    Raises:
        BadInput: the study has other objectives.
    """
    trials = {trial.number: (trial.candidate_id, trial.candidate) for trial in run.read_trials()}
    with suppress(KeyError, IndexError, TypeError, AttributeError, AssertionError):
        study = Study(run.journal, space, directions, seed, sampler)
        if study.knows({number: candidate for number, (candidate, _) in trials.items()}):
            return study
    run.journal.replace(run.journal.with_name(f"{run.journal.name}.damaged"))
    study = Study(run.journal, space, directions, seed, sampler)
    for number in range(max(trials, default=-1) + 1):
        study.replay(space.candidate(trials[number][1]) if number in trials else None)
    return study
