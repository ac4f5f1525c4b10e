"""The phase ``build``: every candidate in the order of the stage tree, by one or more workers."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread

from record.journal import open_recording
from record.rows import Rows
from record.settings import Setup
from record.tree import Needed, tree_order
from search.build import Stage
from search.executors import Builder, Interrupted
from spaces.candidate import Candidate

Row = tuple[Candidate, tuple[Stage, ...]]
EXPORT = "runtime"  # candidates that share this stage are one worker's


def build(setup: Setup, out: Path, workers: int, says: Callable[[str], None], most: int | None = None) -> None:
    """Record every candidate that is not on record, or ``most`` of them.

    Raises:
        OSError: the disk is full or broken; what is on record stays.
        KeyboardInterrupt: likewise.
    """
    tree = setup.tree(setup.recipe.seed)
    rows = Rows(setup, out, open_recording(out, setup.identity))
    recorded = {row["candidate"] for row in rows.rows.records}
    planned = [(candidate, tree.plan(candidate)) for candidate in setup.space.candidates()]
    left = [row for row in planned if row[0].id not in recorded]
    left = [left[place] for place in tree_order([keys(stages) for _, stages in left])][:most]
    needed = Needed(keys(stages) for _, stages in left)
    rows.tidy(needed)
    says(f"{len(recorded)} of {len(planned)} rows are on record, {len(left)} are to come")
    queue: SimpleQueue[list[Row]] = SimpleQueue()
    for group in groups(left):
        queue.put(group)
    warm = setup.tree(setup.recipe.seed + 1).plan(max(planned, key=lambda row: len(row[1]))[0])
    stop, errors, begun, done = Event(), list[BaseException](), time.monotonic(), list[int]()

    def work() -> None:
        try:
            with Builder(rows.store.root, stop) as builder:
                while not stop.is_set():
                    for candidate, stages in queue.get_nowait():
                        if stop.is_set():
                            return
                        if not builder.cpu_s:  # its process is still to start, or has crashed
                            rows.warm(warm, builder)
                        rows.record(candidate, stages, builder)
                        rows.forget(needed.done(keys(stages)))
                        done.append(1)
                        hour = len(done) / (time.monotonic() - begun) * 3600
                        last = rows.rows.records[-1]
                        says(f"{len(done)} of {len(left)}: {last['state']} in {last['wall_s']} s; {hour:.0f} an hour")
        except (Empty, Interrupted):
            return
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [Thread(target=work, daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    if errors:
        raise errors[0]


def keys(stages: Sequence[Stage]) -> tuple[str, ...]:
    """What stands for a candidate's path through the tree."""
    return tuple(stage.key for stage in stages)


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows, in order, by their path up to the export."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        names = [stage.axis for stage in row[1]]
        end = names.index(EXPORT) + 1 if EXPORT in names else len(names)
        found.setdefault(keys(row[1])[:end], []).append(row)
    return list(found.values())
