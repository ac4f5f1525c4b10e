"""From a search file to a run: everything is checked first, then the engine is put together."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event
from typing import Any

from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.eviction import lease
from hardware_profiles.messages import Answered, Job, JobFailed
from hardware_profiles.profile import local
from hardware_profiles.store import Store
from objectives.accuracy import accuracy, accuracy_slices
from objectives.registry import OBJECTIVES, metadata
from objectives.run import RunFolder
from objectives.task import Task, load_task, read_split, split_digest
from objectives.trial import Trial
from reports.pick import HoldoutCheck
from search.baselines import blank_image, commonest_answer
from search.budget import Budget
from search.build import StageTree
from search.checks import legal_space, models, narrowed, refuse_image_tokens, refuse_unwritable
from search.config import SearchConfig, load_config, refuse_impossible
from search.engine import Engine, Outcome, directions, settle
from search.evaluate import Evaluator
from search.executors import Builder
from search.exemplars import exemplar_pool, pool_digests
from search.fit import fitting_splits
from search.gate import Gate
from search.reopen import open_study
from search.room import bundle_of, make_room, pin_front
from search.scoring import Retention, Scorer, requests, score
from spaces.errors import BadInput
from spaces.knobs import Choices
from spaces.sample import Sample
from spaces.space import Space

_TOOLS = ("torch", "transformers", "optimum-intel", "nncf", "openvino", "openvino-genai", "optuna", "peft", "vlmfront")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A search whose every input was read and found good. ``notes``: what the user should know before it begins."""

    config: SearchConfig
    task: Task
    space: Space
    splits: Mapping[str, Sequence[Sample]]
    retention: Retention | None
    tree: StageTree
    run: RunFolder
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> Sequence[Sample]:
        """The rows of the search split that score a trial."""
        return self.splits["search"][: self.config.items]


def prepare(path: Path, *, run: Path | None, budget: Budget | None, resume: bool) -> Prepared:
    """Read and check everything that a search needs, then make its run folder or open it again.

    Raises:
        BadInput: one sentence; nothing was written.
    """
    config = load_config(path)
    if budget is not None:
        config = replace(config, budget=budget)
    task = load_task(config.task)
    refuse_impossible(config, task, path)
    space, notes = narrowed(legal_space(config.space), local())
    splits = fitting_splits(space, task, config.items)
    retention = _retention(config, space)
    if retention:
        longest = max(task.max_new_tokens, retention.task.max_new_tokens)
        task = replace(task, max_new_tokens=longest)  # a bundle answers rows of both tasks
    if "holdout" not in splits:
        notes += (f"{config.task}: there is no holdout split, so a pick cannot be checked on other rows.",)
    if config.items and config.items > len(splits["search"]):
        notes += (f"{path}: items: {config.items} were asked for, the search split has {len(splits['search'])}.",)
    pool = exemplar_pool(space, task, splits)
    digests = {split: split_digest(samples) for split, samples in splits.items()} | pool_digests(pool)
    folder = run or Path("runs") / config.name
    refuse_unwritable(config.store)
    tree = StageTree(space, {**splits, **pool}, digests, task.max_new_tokens, config.seed)
    settings = _settings(path, config, task, space, digests)
    settings["search"]["retention"] = _retention_settings(config, retention)
    settings["models"] = {model: tree.model_digest(space.folder / model) for model in models(space)}
    opened = RunFolder.resume(folder, settings) if resume else RunFolder.create(folder, settings)
    return Prepared(
        config=config, task=task, space=space, splits=splits, retention=retention, tree=tree, run=opened, notes=notes
    )


def _retention(config: SearchConfig, space: Space) -> Retention | None:
    """The set that must not be forgotten, read and checked like the task's own.

    Raises:
        BadInput: one sentence.
    """
    given = config.retention
    if given is None:
        return None
    task = load_task(given.task)
    samples = read_split(task, given.split)[: given.items]
    refuse_image_tokens(space, task, {given.split: samples})
    return Retention(task=task, samples=samples)


def _retention_settings(config: SearchConfig, retention: Retention | None) -> dict[str, Any] | None:
    if config.retention is None or retention is None:
        return None
    return {
        "split": config.retention.split,
        "items": len(retention.samples),
        "metric": retention.task.metric.spec,
        "digest": split_digest(retention.samples),
    }


def search(prepared: Prepared, stop: Event, on_trial: Callable[[Trial], None]) -> Outcome:
    """Run the search to its end. Sets ``stop`` when it ends, so that nothing of it runs on."""
    store, run, limit = Store(prepared.config.store), prepared.run, prepared.config.store_limit

    def keep(trial: Trial) -> None:
        on_trial(trial)
        trials.append(trial)
        if trial.state == "complete":
            pin_front(store, run, trials)
        if not all(stage.reused for stage in trial.stages):
            make_room(store, limit)

    with run.writing(), lease(store) as claim:
        run.tidy()
        trials = list(run.read_trials())
        claim.need(stage.key for trial in trials for stage in trial.stages)
        pin_front(store, run, trials)
        make_room(store, limit)
        return _search(prepared, store, stop, keep)


def _search(prepared: Prepared, store: Store, stop: Event, on_trial: Callable[[Trial], None]) -> Outcome:
    config, run, space = prepared.config, prepared.run, prepared.space
    run.write_baselines([commonest_answer(prepared.task, prepared.items)])
    goals = directions([config.known[name] for name in config.objectives])
    study = open_study(run, space, goals, config.seed, config.sampler)
    settle(run, study, config.objectives, config.limits)
    for model in models(space):
        study.propose(space.as_it_comes(model))
    gate = Gate()
    evaluator = Evaluator(
        run=run,
        space=space,
        scorer=Scorer(prepared.task, prepared.items, prepared.retention, config.seed),
        tree=prepared.tree,
        store=store,
        gate=gate,
        objectives=config.objectives,
        known=config.known,
        limits=config.limits,
        racing=config.racing,
        stop=stop,
        device=local(),
    )
    builders = [Builder(store.root, stop) for _ in range(config.workers)]
    engine = Engine(
        run=run,
        study=study,
        evaluator=evaluator,
        objectives=config.objectives,
        budget=config.budget,
        builders=builders,
        gate=gate,
        stop=stop,
        on_trial=on_trial,
    )
    try:
        return engine.search()
    finally:
        engine.halt()
        with suppress(OSError):  # what a full disk leaves untold is told on --resume
            settle(run, study, config.objectives, config.limits)


def add_blank_image(prepared: Prepared) -> None:
    """Add the second baseline, of the most accurate trial, to the run folder; without it where that bundle fails."""
    run, task, items = prepared.run, prepared.task, prepared.items
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


def score_on_holdout(run: RunFolder, number: int, purpose: str) -> HoldoutCheck:
    """A trial's bundle scored on the holdout split; the use is logged before it happens.

    Raises:
        BadInput: the task has no holdout split, it cannot be read, or the bundle is no longer there.
        JobFailed: the bundle could not answer.
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
    use = run.log_holdout(purpose, [number])
    result = run_job(Job(kind="answer", bundle=str(bundle), requests=requests(samples)))
    assert isinstance(result, Answered)
    scores = [answer.score for answer in score(result, samples, task)]
    return HoldoutCheck(
        accuracy=accuracy(scores), slices=accuracy_slices(samples, scores, task.slices), repeat=use.repeat
    )


def _settings(path: Path, config: SearchConfig, task: Task, space: Space, digests: Mapping[str, str]) -> dict[str, Any]:
    device = local()
    return {
        "name": config.name,
        "search": {
            "file": str(path.resolve()),
            "objectives": list(config.objectives),
            "limits": {name: dict(bounds) for name, bounds in config.limits.items()},
            "items": config.items,
            "racing": config.racing,
            "figures": [metadata(one) for name, one in config.known.items() if name not in OBJECTIVES],
            "seed": config.seed,
            "sampler": config.sampler,
            "workers": config.workers,
            "budget": str(config.budget),
        },
        "space_id": space.id,
        "space": {"file": str(config.space.resolve()), "size": space.size, "knobs": _knobs(space)},
        "task": {
            "path": str(config.task.resolve()),
            "name": task.name,
            "metric": task.metric.spec,
            "slices": list(task.slices),
            "max_new_tokens": task.max_new_tokens,
            "hints": {task.hint_field: dict(task.hints)},
            "unknown": list(task.unknown),
            "costs": asdict(task.costs) if task.costs else None,
            "digests": dict(digests),
        },
        "device": {
            "name": config.device,
            "profile": device.name,
            "threads": device.threads,
            "dtypes": list(device.dtypes),
        },
        "versions": {"python": sys.version.split()[0], **{tool: _version(tool) for tool in _TOOLS}},
        "store": str(config.store.resolve()),
        "cores": os.cpu_count(),
    }


def _knobs(space: Space) -> dict[str, Any]:
    return {
        knob.name: list(knob.values) if isinstance(knob, Choices) else {"low": knob.low, "high": knob.high}
        for knob in space.knobs
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
