"""Evaluates every candidate of a space into a recorded table, on which search engines are compared by replay.

    python benchmarks/record_table.py benchmarks/tables/inspection/record.yaml --out FOLDER --phase build [--workers 2]
    python benchmarks/record_table.py benchmarks/tables/inspection/record.yaml --out FOLDER --phase measure --passes 3
    python benchmarks/record_table.py benchmarks/tables/inspection/record.yaml --out FOLDER --phase write --table FOLDER

Three phases, each of which goes on where it was after a kill at any moment: one durable line is written for each row
and each measurement (``FOLDER/recording/*.jsonl``), and what has one is not done again.

``build`` builds each candidate's bundle through the stage tree and scores it on both splits through its runtime (see
``record.rows``). Its seconds are processor time, so other work on the machine does not disturb it.
``measure`` times bundles through the local device's agent, one fresh process each, in several passes (see
``record.measuring``). It wants a machine with nothing else running; Ctrl-C pauses it.
``write`` makes the table (see ``record.table``) and prints the check of its fitness as its last line, one JSON object.
``--partial`` leaves out the objectives and rows that are not recorded yet.
"""

import argparse
import sys
from pathlib import Path

from record.building import build
from record.settings import load_recipe, set_up
from spaces.errors import BadInput


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, metavar="RECORD.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recording: bundles, lines, store")
    parser.add_argument("--phase", choices=("build", "measure", "write"), required=True)
    parser.add_argument("--workers", type=int, choices=(1, 2), default=1, help="build: candidates at once")
    parser.add_argument("--rows", type=int, help="build: stop after so many")
    parser.add_argument("--passes", type=int, default=3, help="measure: processes for each deployed graph, in all")
    parser.add_argument("--table", type=Path, help="write: folder of the table; that of the recipe if not given")
    parser.add_argument("--partial", action="store_true", help="write: what there is so far")
    options = parser.parse_args()
    try:
        setup = set_up(load_recipe(options.recipe))
        options.out.mkdir(parents=True, exist_ok=True)
        if options.phase == "build":
            build(setup, options.out.resolve(), options.workers, lambda text: print(text, flush=True), options.rows)
    except BadInput as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
