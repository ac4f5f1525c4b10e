"""How the figures of a report came about, in sentences for its reader."""

from collections.abc import Mapping, Sequence

from objectives.records import HoldoutUse
from objectives.run import RunFolder
from objectives.trial import Trial
from reports.front import Front
from reports.markup import Html, card, element, join
from reports.words import floor_in_words

_NOTES = """\
Every figure is of the deployed bundle: the exported, compressed model with its prompt, in its own runtime.
Accuracy is normalised exact match on the search split, with Wilson's 95 % interval. \
That split guides the search, so the best figures flatter; pick scores its choice again on the holdout split.
Items are scored in batches through the bundle's runtime. On CPUs with bf16 most answers of f32 bundles are drafted \
in bf16 and repeated in f32 where the margin is small.
Latency is the median time of a whole answer in a fresh process, over at least 11 timed answers after warm-up. \
Its 95 % interval comes from order statistics, widened for the spread between processes.
Provisional: measured in one process only. At the end of a search up to 12 members of the front, \
those nearest its knee, \
are measured again as finalists, in at least five processes, and lose that label; \
what is on the front only since then keeps it. Trials that deploy the same bundle share one measurement.
Accuracy is scored on the searching machine where its answers were those that the device gave while it was timed, else \
on the device itself, which is on the label.
A trial is on the front if no other is at least as good in every objective up to the noise floor, \
which for latencies is how far the p50 of one bundle strays in other processes on this device (at least 5 %), and for \
other figures the median half-width of the front's intervals. Accuracy's comes from the paired differences between \
neighbours on the front before any floor, if there are two, since all trials answer the same items. \
So a pale point may lie above the line: by less than the floor.
P(front) is the probability that no other trial dominates this one when all figures vary within their intervals \
(2000 draws, independent).
Load time is warm: the bundle's files are in the system's cache.
Memory is the peak resident memory of the measuring process; a megabyte is 10⁶ bytes.
""".splitlines()


_ASKED_FOR = {
    "agreement": """\
Agreement is how far a trial's answers are those of its own model as it comes (fp16, unpruned, untuned, all visual \
tokens, the plain question): the task's score with that model's answer as the only right one.""",
    "forgetting": """\
Retention is accuracy on rows of another task, by that task's metric. Forgetting is what the model as it comes scores \
there less what the trial scores; its interval is of paired differences.""",
    "abstention": """\
Abstention is the share of answers that say that the answer is not known.""",
    "cost": """\
Cost is the mean over the judged items of what the task's cost matrix asks for the answer given.""",
}
_RACED = """\
Trials whose scoring was stopped (raced out) had fallen behind another one that is no worse in every other \
objective: a test by betting on the items seen, which come in a shuffled order, is wrong in at most 5 % of the trials \
that would have caught up. Their accuracy is of those items only."""


def method(run: RunFolder, trials: Sequence[Trial], found: Front, uses: Sequence[HoldoutUse]) -> Html:
    """The closing section: how the figures came about, uses of the holdout split, versions."""
    floors = "; ".join(
        f"{o.label.lower()} {floor_in_words(found.floors[o.name], o)}" for o in found.objectives if found.members
    )
    notes = [*_NOTES, f"Noise floor: {floors}."] if floors else [*_NOTES]
    notes += [note for name, note in _ASKED_FOR.items() if any(name in trial.figures for trial in trials)]
    notes += [_RACED] if any(trial.state == "pruned" for trial in trials) else []
    warnings = []
    if uses:
        listed = "; ".join(f"{use.purpose} (trial {', '.join(map(str, use.trials)) or '?'})" for use in uses)
        notes.append(f"Uses of the holdout split so far: {listed}.")
    if any(use.repeat for use in uses):
        text = "The holdout split was used more than once in this run: later figures on it are no longer unbiased."
        warnings.append(element("p", text, class_="warn"))
    versions = run.settings.get("versions", {})
    line = (
        " · ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, Mapping) else ""
    )
    section = card(
        "How to read this", None, *warnings, element("ul", *[element("li", note) for note in notes], class_="method")
    )
    return join(section, element("footer", f"Space {run.settings.get('space_id', 'unknown')}. {line}"))
