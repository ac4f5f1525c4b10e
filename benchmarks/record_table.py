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
import json
import sys
from pathlib import Path

from record.building import build
from record.measuring import measure
from record.settings import load_recipe, set_up
from record.table import write
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
        out = options.out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        if options.phase == "build":
            build(setup, out, options.workers, lambda text: print(text, flush=True), options.rows)
        elif options.phase == "measure":
            measure(setup, out, options.passes, lambda text: print(text, flush=True))
        else:
            found = write(setup, out, options.table or options.recipe.parent, partial=options.partial)
            print(json.dumps({"benchmark": "record_table", "table": str(options.recipe.parent.name)} | found))
    except BadInput as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
