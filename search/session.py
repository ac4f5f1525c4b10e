"""From a search file to a run: everything is checked first, then the engine is put together."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

from hardware_profiles.eviction import lease
from hardware_profiles.store import Store
from objectives.devices import bound
from objectives.run import RunFolder
from objectives.task import Task, load_task, read_split, split_digest
from objectives.trial import Trial
from search.baselines import commonest_answer
from search.budget import Budget
from search.build import StageTree
from search.checks import legal_space, models, narrowed, refuse_image_tokens, refuse_unwritable, values
from search.config import SearchConfig, load_config, refuse_impossible
from search.engine import Engine, Outcome, directions, settle
from search.equipment import open_all, stand_in, together
from search.evaluate import Evaluator
from search.executors import Builder
from search.exemplars import exemplar_pool, pool_digests
from search.fit import fitting_splits
from search.fleet import Fleet
from search.gate import Gate
from search.prediction import Predicted, predicted_device
from search.reopen import open_study
from search.resolved import resolved, retention_settings
from search.room import make_room, pin_front
from search.scoring import Retention, Scorer
from spaces.sample import Sample
from spaces.space import Space


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
    fleet: Fleet
    predicted: Predicted | None = None
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> Sequence[Sample]:
        """The rows of the search split that score a trial."""
        return self.splits["search"][: self.config.items]

    def close(self) -> None:
        """Give the devices back."""
        self.fleet.close()


def prepare(
    path: Path,
    *,
    run: Path | None,
    budget: Budget | None,
    resume: bool,
    says: Callable[[str, str], None] = lambda *_: None,
) -> Prepared:
    """Read and check everything that a search needs, open its devices, then make its run folder or open it again.

    The caller closes what was prepared. ``says`` is told which device is waited for, and why.

    Raises:
        BadInput: one sentence; nothing was written.
    """
    config = load_config(path)
    if budget is not None:
        config = replace(config, budget=budget)
    task = load_task(config.task)
    refuse_impossible(config, task, path)
    space = legal_space(config.space)
    retention = _retention(config, space)
    if retention:
        longest = max(task.max_new_tokens, retention.task.max_new_tokens)
        task = replace(task, max_new_tokens=longest)  # a bundle answers rows of both tasks
    refuse_unwritable(config.store)
    splits = fitting_splits(space, task, config.items)
    notes: tuple[str, ...] = ()
    if "holdout" not in splits:
        notes += (f"{config.task}: there is no holdout split, so a pick cannot be checked on other rows.",)
    if config.items and config.items > len(splits["search"]):
        notes += (f"{path}: items: {config.items} were asked for, the search split has {len(splits['search'])}.",)
    pool = exemplar_pool(space, task, splits)
    digests = {split: split_digest(samples) for split, samples in splits.items()} | pool_digests(pool)
    folder = run or Path("runs") / config.name
    before = _before(folder, resume)
    owner = str(before.get("id") or uuid4())
    predicted = _predicted(config, space)
    names = (predicted.profile.name,) if predicted else config.targets.names  # a profile's file is not its name
    fleet = Fleet(names, Gate(), Event(), owner)
    fleet.says = says
    try:
        devices = stand_in(predicted) if predicted else open_all(fleet, before.get("devices", {}))
        space, lacking = narrowed(space, together(devices.values()))
        tree = StageTree(space, {**splits, **pool}, digests, task.max_new_tokens, config.seed)
        settings = resolved(path, config, task, space, digests) | {"id": owner, "devices": devices}
        settings["search"]["retention"] = retention_settings(config, retention)
        settings["models"] = {model: tree.model_digest(space.folder / model) for model in models(space)}
        opened = RunFolder.resume(folder, settings) if resume else RunFolder.create(folder, settings)
    except BaseException:
        fleet.close()
        raise
    return Prepared(
        config=config,
        task=task,
        space=space,
        splits=splits,
        retention=retention,
        tree=tree,
        run=opened,
        fleet=fleet,
        predicted=predicted,
        notes=(*lacking, *notes),
    )


def _before(folder: Path, resume: bool) -> Mapping[str, Any]:
    """The settings of the run that is carried on; none of a new one.

    Raises:
        BadInput: there is no such run, another search writes it, or a new one's place is taken. This comes before its
            devices are opened, since they would be taken from the search that has them.
    """
    if not resume:
        RunFolder.refuse_occupied(folder)
        return {}
    run = RunFolder.open(folder)
    with suppress(OSError), run.writing():  # that it cannot be written is said when it is carried on
        pass
    return run.settings


def _predicted(config: SearchConfig, space: Space) -> Predicted | None:
    """What stands in for the device where the search goes by a profile.

    Raises:
        BadInput: there is no such profile, or it says too little.
    """
    if not config.targets.predicted:
        return None
    usual = space.with_defaults({}, "runtime")
    runtimes, units = (
        tuple(map(str, values(space, f"runtime.{knob}") or (usual[knob],))) for knob in ("name", "device")
    )
    return predicted_device(config.targets.names[0], runtimes, devices=units)


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


def search(
    prepared: Prepared,
    on_trial: Callable[[Trial], None],
    on_finalist: Callable[[str, int, int], None] = lambda *_: None,
) -> Outcome:
    """Run the search to its end; its devices are given back then, and nothing of it runs on.

    Raises:
        AllLost: no device is within reach any more; ``--resume`` goes on.
    """
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
        try:
            outcome = _search(prepared, store, keep, on_finalist)
        finally:
            prepared.close()
        pin_front(store, run, run.read_trials())
        return outcome


def _search(
    prepared: Prepared,
    store: Store,
    on_trial: Callable[[Trial], None],
    on_finalist: Callable[[str, int, int], None],
) -> Outcome:
    config, run, space, fleet = prepared.config, prepared.run, prepared.space, prepared.fleet
    for event in fleet.events:
        run.log_device(event)
    fleet.heard.append(run.log_device)
    run.write_baselines([commonest_answer(prepared.task, prepared.items)])
    known = bound(config.known, fleet.names)
    study = open_study(run, space, directions([known[name] for name in config.objectives]), config.seed, config.sampler)
    settle(run, study, config.objectives, config.limits)
    for model in models(space):
        study.propose(space.as_it_comes(model))
    evaluator = Evaluator(
        run=run,
        space=space,
        scorer=Scorer(prepared.task, prepared.items, prepared.retention, config.seed),
        tree=prepared.tree,
        store=store,
        fleet=fleet,
        objectives=config.objectives,
        known=config.known,
        limits=config.limits,
        racing=config.racing,
        predicted=prepared.predicted,
    )
    engine = Engine(
        run=run,
        study=study,
        evaluator=evaluator,
        objectives=config.objectives,
        budget=config.budget,
        builders=[Builder(store.root, fleet.stop) for _ in range(config.workers)],
        fleet=fleet,
        finalists=config.finalists and not config.targets.predicted,
        on_trial=on_trial,
        on_finalist=on_finalist,
    )
    try:
        return engine.search()
    finally:
        engine.halt()
        with suppress(OSError):  # what a full disk leaves untold is told on --resume
            settle(run, study, config.objectives, config.limits)
