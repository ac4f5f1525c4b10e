"""What a run keeps in the store, what it gives back, and bundles that are laid out again from there."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from hardware_profiles.bundle import MANIFEST, open_bundle
from hardware_profiles.eviction import Room, evict, pin, pins
from hardware_profiles.store import Gone, Store
from objectives.devices import devices_of, seen_from
from objectives.registry import described
from objectives.run import RunFolder
from objectives.trial import Trial
from reports.front import front, objectives_of
from reports.pick import PREFERENCES
from spaces.errors import BadInput


def pin_front(store: Store, run: RunFolder, trials: Sequence[Trial]) -> None:
    """Put on record what the run's front and a pick from it need.

    These are the trials that on some device none beats in every objective, noise left aside, nor with one more figure
    that a pick may prefer; and those that a device has still to measure.
    """
    known = described(run.settings)
    numbers: set[int] = set()
    for device in devices_of(run.settings):
        objectives = objectives_of(run.settings, device)
        seen = [seen_from(trial, device) for trial in trials]
        wider = [[*objectives, name] for name in PREFERENCES.values() if name not in objectives]
        for names in (objectives, *wider):
            numbers |= {trial.number for trial in front(seen, names, dict.fromkeys(names, 0.0), known=known).trials}
    members = [trial for trial in trials if trial.number in numbers or trial.waits_for]
    references = {one.trial for device in devices_of(run.settings) for one in run.read_references(device)}
    keys = {stage.key for trial in members for stage in trial.stages}
    pin(store, run.path, keys, {*references, *(trial.number for trial in members)})


def make_room(store: Store, limit: int) -> Room:
    """Bring the store within its limit: first by what only the store has, then by bundles that no front needs."""
    room = evict(store, limit)
    if room.over and sum(_drop_bundles(one.run, one.bundles) for one in pins(store)):
        room = evict(store, limit)
    return room


def bundle_of(run: RunFolder, number: int) -> Path:
    """The bundle of a trial, laid out again from the store where it was dropped or is damaged.

    Raises:
        BadInput: the store no longer has its files.
    """
    folder = run.bundle(number)
    if not (folder / MANIFEST).is_file():
        return folder
    try:
        open_bundle(folder)
    except BadInput as error:
        if not _lay_out_again(run, folder):
            raise BadInput(
                f"{folder}: the bundle of trial {number} is not whole and the store no longer has its files ({error}); "
                "search its configuration again under another --run, with a larger store_limit."
            ) from None
    return folder


def _lay_out_again(run: RunFolder, folder: Path) -> bool:
    root = Path(run.settings["store"])
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        key = manifest["provenance"]["stages"][-1]["key"]
        entry = Store(root).get(key) if root.is_dir() else None
        if entry is None:
            return False
        Store(root).checkout(entry, draft)
        shutil.copyfile(folder / MANIFEST, draft / MANIFEST)
        open_bundle(draft)
    except (ValueError, KeyError, IndexError, TypeError, Gone, BadInput):
        shutil.rmtree(draft, ignore_errors=True)
        return False
    shutil.rmtree(folder)
    draft.rename(folder)
    return True


def _drop_bundles(path: Path, kept: frozenset[int]) -> int:
    """Drop the files of a finished run's bundles but those of ``kept``; manifests stay. How many files went."""
    dropped = 0
    try:
        run = RunFolder.open(path)
        with run.writing():
            for bundle in (path / "bundles").iterdir():
                if bundle.name.isdigit() and int(bundle.name) not in kept:
                    for file in sorted(bundle.rglob("*")):
                        if file.is_file() and file != bundle / MANIFEST:
                            file.unlink()
                            dropped += 1
    except (BadInput, OSError):
        return dropped
    return dropped
