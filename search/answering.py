"""Scores a trial: on the host where its answers are the device's, on the device where they are not.

Accuracy is scored on this machine, which is faster than most targets, but only counts where it is what the target
would say: the answers that a device gave while it was timed must be those of the host to the same items. Where some
differ, the device is asked those again. One that answers as the host does the second time only varies (a measurement
answers one by one, scoring in batches), which is a label; where one still differs, that device answers the whole split.

With several devices a trial has one accuracy as long as they agree. A device that does not has figures of its own
(``accuracy@pi``), which stand for the trial's in that device's front. Where no device agrees, or the host cannot run
the bundle at all, the trial's own are those of the first device that answered.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from hardware_profiles.messages import JobFailed, Measurement
from objectives.accuracy import accuracy_slices
from objectives.costs import confusion
from objectives.run import RunFolder
from search.fleet import Fleet, Lost
from search.measuring import in_words, missing, timed_items
from search.progress import Progress, timed
from search.racing import Race
from search.scoring import Scored, Scorer, on_host, requests
from spaces.errors import StageFailed


@dataclass
class _Agreed:
    """What came of comparing: devices that have to answer themselves, and why; devices that vary, and how."""

    against: dict[str, str] = field(default_factory=dict)
    vary: dict[str, str] = field(default_factory=dict)


class Answering:
    """Scores the bundles of one run."""

    def __init__(self, *, run: RunFolder, fleet: Fleet, scorer: Scorer, stop: Event) -> None:
        self._run = run
        self._fleet = fleet
        self.scorer = scorer
        self._stop = stop

    def anywhere(self, bundle: Path) -> Scored:
        """A bundle that no device has measured, scored in full: on the host, or on a device where the host cannot.

        Raises:
            JobFailed: nobody could.
            Interrupted, Cancelled: the search was stopped.
        """
        try:
            with self._fleet.gate.work():
                return self.scorer.run(on_host(bundle, self._stop))
        except JobFailed:
            for name, device in self._fleet.devices.items():
                if not device.here:
                    try:
                        return self._on_device(name, bundle, None)
                    except (JobFailed, Lost):
                        continue
            raise

    def score(self, number: int, bundle: Path, race: Callable[[], Race | None], progress: Progress) -> Scored:
        """Score a trial's bundle, and put its answers on record; ``race`` begins a new race.

        Raises:
            JobFailed, StageFailed: it could not be scored.
            AllLost: no device is within reach any more.
            Interrupted, Cancelled: the search was stopped.
        """
        with timed(progress, "score", self._fleet.gate.work()):
            found, failed = self._on_host(bundle, race())
        agreed = self._compare(bundle, found, failed, progress)
        several = len(self._fleet.names) > 1
        if found and found.raced and several and agreed.against:  # behind on the host's answers, which are not theirs
            with timed(progress, "score", self._fleet.gate.work()):
                found, failed = self._on_host(bundle, None)
        for name, text in agreed.vary.items():
            progress.label(name, text)
        own = {
            name: scored
            for name, why in agreed.against.items()
            if (scored := self._itself(name, bundle, None if several else race(), why, progress))
        }
        if self._fleet.lost and not self._fleet.devices:
            raise self._fleet.all_lost()
        first = next(iter(own), "")
        agree = [one for one, found_on in progress.devices.items() if found_on.state != "infeasible" and one not in own]
        trial = found if found and agree else own.get(first)
        if trial is None:
            reasons = {name: one.reason for name, one in progress.devices.items() if one.reason}
            raise failed or StageFailed(in_words(reasons))
        self._learn(number, trial, progress)
        for name, scored in own.items():
            if scored is not trial:
                self._learn_on(number, name, scored, progress)
        return trial

    def again(self, number: int, name: str, bundle: Path, progress: Progress) -> None:
        """Compare a device that has measured late with the trial's answers, and have it answer where it must.

        Raises:
            Lost: the device went away.
            Interrupted, Cancelled: the search was stopped.
        """
        known = self._run.read_answers(number)
        by_id = {item.id: item for item in self.scorer.items}
        samples = [by_id[one.id] for one in known]
        found = Scored(samples=samples, answers=known, retained=None, how={}, raced=False)
        try:
            against, vary = self._differs(name, bundle, found, progress.measurement(name))
        except JobFailed as error:
            self._cannot(name, error, progress)
            return
        if vary:
            progress.label(name, vary)
        if against and (scored := self._itself(name, bundle, None, against, progress)):
            if progress.several:
                self._learn_on(number, name, scored, progress)
            else:
                self._learn(number, scored, progress)

    def _on_host(self, bundle: Path, race: Race | None) -> tuple[Scored | None, JobFailed | None]:
        try:
            return self.scorer.run(on_host(bundle, self._stop), race), None
        except JobFailed as error:
            if all(device.here for device in self._fleet.devices.values()):
                raise
            return None, error

    def _on_device(self, name: str, bundle: Path, race: Race | None) -> Scored:
        return self.scorer.run(lambda asked, enough: self._fleet.answer(name, bundle, asked, enough), race)

    def _compare(self, bundle: Path, found: Scored | None, failed: JobFailed | None, progress: Progress) -> _Agreed:
        agreed = _Agreed()
        for name in list(progress.devices):
            measurement = progress.measurement(name)
            if measurement is None:
                continue
            if found is None:
                agreed.against[name] = f"the host cannot run it ({failed})"
                continue
            try:
                against, vary = self._differs(name, bundle, found, measurement)
            except Lost as lost:
                progress.devices[name] = missing(name, lost.reason, "answers not compared")
                continue
            except JobFailed as error:
                self._cannot(name, error, progress)
                continue
            agreed.against |= {name: against} if against else {}
            agreed.vary |= {name: vary} if vary else {}
        return agreed

    def _differs(self, name: str, bundle: Path, found: Scored, measurement: Measurement | None) -> tuple[str, str]:
        """Why a device has to answer itself, and how its answers vary; empty where they do not."""
        said: dict[str, str] = {}
        unsteady: set[str] = set()
        for timing in measurement.timings if measurement else ():
            if said.setdefault(timing.id, timing.text) != timing.text:
                unsteady.add(timing.id)
        told = {answer.id: answer.answer for answer in found.answers}
        differ = [item for item in said if item in told and told[item] != said[item]]
        if differ:
            items = [item for item in timed_items(self.scorer.items) if item.id in differ]
            repeat = {one.id: one.text for one in self._fleet.answer(name, bundle, requests(items)).answers}
            unsteady |= {item for item in differ if repeat[item] != said[item]}
            differ = [item for item in differ if repeat[item] != told[item]]
        of = f"of {len(said)} answers"
        vary = f"{len(unsteady)} {of} vary on {name}" if unsteady else ""
        return (f"{len(differ)} {of} differ from the host's" if differ else ""), vary

    def _itself(self, name: str, bundle: Path, race: Race | None, why: str, progress: Progress) -> Scored | None:
        """The split answered on a device, and that on its label; null where the device could not after all."""
        try:
            with timed(progress, "score", nullcontext()):
                scored = self._on_device(name, bundle, race)
        except Lost as lost:
            progress.devices[name] = missing(name, lost.reason, "the split was not answered")
        except JobFailed as error:
            self._cannot(name, error, progress)
        else:
            progress.label(name, f"answered on {name}: {why}", answered=True)
            return scored
        return None

    def _cannot(self, name: str, error: JobFailed, progress: Progress) -> None:
        progress.label(name, f"cannot run on {name}: {error}", state="infeasible", reason=str(error))

    def _learn(self, number: int, found: Scored, progress: Progress) -> None:
        """Take in the trial's own answers."""
        self._run.write_answers(number, found.answers)
        answers = [answer.answer for answer in found.answers]
        task = self.scorer.task
        scores = [answer.score for answer in found.answers]
        progress.scoring = found.how
        progress.slices = accuracy_slices(found.samples, scores, task.slices)
        if task.costs:
            progress.confusion = confusion(answers, found.samples, task)
        progress.learn(samples=found.samples, answers=answers, scores=scores, retained=found.retained)

    def _learn_on(self, number: int, name: str, found: Scored, progress: Progress) -> None:
        """Take in the answers that are one device's own."""
        self._run.write_answers(number, found.answers, name)
        scores = [answer.score for answer in found.answers]
        progress.label(name, slices=accuracy_slices(found.samples, scores, self.scorer.task.slices))
        answers = [answer.answer for answer in found.answers]
        progress.learn_on(name, samples=found.samples, answers=answers, scores=scores, retained=found.retained)
