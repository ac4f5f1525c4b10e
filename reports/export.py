"""Handing over one trial's bundle: copied, verified, with its measured figures, whole or not at all."""

import shutil
from dataclasses import asdict
from pathlib import Path

from hardware_profiles.bundle import Bundle, open_bundle, seal
from objectives.folders import new_folder
from objectives.run import RunFolder
from spaces.errors import BadInput


def export(run: RunFolder, number: int, out: Path) -> Bundle:
    """Copy the bundle of a trial to the new folder ``out`` and verify every file against its manifest.

    The copy's manifest carries the trial's measured figures.

    Raises:
        BadInput: no such trial, no bundle kept for it, one that is not what its manifest says, or ``out`` exists or
            cannot be written.
    """
    trial = run.read_trial(number)
    source = run.bundle(number)
    if not source.is_dir():
        kept = sorted(int(path.name) for path in (run.path / "bundles").iterdir() if path.name.isdigit())
        listed = f"bundles are kept of {', '.join(map(str, kept))}" if kept else "this run has kept none"
        raise BadInput(f"{run.path}: no bundle is kept of trial {number} ({trial.state}); {listed}.")
    manifest = open_bundle(source).manifest
    with new_folder(out) as draft:
        shutil.copytree(source, draft, copy_function=shutil.copyfile, dirs_exist_ok=True)
        draft.chmod(0o755)
        seal(
            draft,
            runtime=manifest.runtime,
            prompt=manifest.prompt,
            max_new_tokens=manifest.max_new_tokens,
            execution=manifest.execution,
            candidate=manifest.candidate,
            provenance=manifest.provenance,
            measured={name: asdict(figure) for name, figure in trial.figures.items()},
        )
        copied = open_bundle(draft).manifest
        if copied.files != manifest.files:
            raise BadInput(f"{source}: the bundle changed while it was copied; export it again.")
    return open_bundle(out, verify=False)
