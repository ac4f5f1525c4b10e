"""What is asked of a run's bundles once its search ended: about a blank image, and about the holdout split."""

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Event

from hardware_profiles.messages import JobFailed
from objectives.accuracy import accuracy, accuracy_slices
from objectives.run import RunFolder
from objectives.task import Task, load_task, read_split, split_digest
from objectives.trial import Trial
from reports.pick import HoldoutCheck
from search.baselines import blank_image, commonest_answer
from search.fleet import open_device
from search.room import bundle_of
from search.scoring import on_host, requests, score
from spaces.errors import BadInput
from spaces.sample import Sample


def add_blank_image(run: RunFolder, task: Task, items: Sequence[Sample]) -> None:
    """Add the second baseline, of the most accurate trial, to the run folder; without it where that bundle fails."""
    scored = [
        trial
        for trial in run.read_trials()
        if accuracy_of(trial) is not None and trial.state in ("complete", "infeasible")
    ]
    if scored:
        best = max(scored, key=lambda trial: accuracy_of(trial) or 0.0)
        with suppress(JobFailed, BadInput):
            bundle_of(run, best.number)
            run.write_baselines(
                [commonest_answer(task, items), blank_image(run, best.number, task, items, cancel=Event())]
            )


def accuracy_of(trial: Trial) -> float | None:
    """A trial's accuracy; null where it was not scored."""
    figure = trial.figures.get("accuracy")
    return figure.value if figure else None


def score_on_holdout(run: RunFolder, number: int, purpose: str, device: str) -> HoldoutCheck:
    """A trial's bundle scored on the holdout split, by whom the search had it scored; the use is logged beforehand.

    Raises:
        BadInput: the task has no holdout split, it cannot be read, or the bundle is no longer there.
        JobFailed: the bundle could not answer, or the device is away.
    """
    task = load_task(Path(run.settings["task"]["path"]))
    if "holdout" not in task.splits:
        raise BadInput(f"{task.path}: splits: a pick is scored on a holdout split; name its JSONL file.")
    samples = read_split(task, "holdout")
    known = run.settings["task"]["digests"].get("holdout")
    if known and known != split_digest(samples):
        raise BadInput(
            f"{task.splits['holdout']}: the holdout split is not the one that this run began with; restore it."
        )
    bundle = bundle_of(run, number)
    if not bundle.is_dir():
        raise BadInput(f"{bundle}: the bundle of trial {number} is gone; it cannot be scored again.")
    found = run.read_trial(number).devices.get(device)
    asked = requests(samples)
    if found and found.answered:
        with closing(open_device(device, Event(), lambda _: None)) as opened:
            use = run.log_holdout(purpose, [number])
            result = opened.answer(bundle, asked, cancel=Event())
    else:
        use = run.log_holdout(purpose, [number])
        result = on_host(bundle, Event())(asked, lambda _: False)
    scores = [answer.score for answer in score(result, samples, task)]
    return HoldoutCheck(
        accuracy=accuracy(scores), slices=accuracy_slices(samples, scores, task.slices), repeat=use.repeat
    )
