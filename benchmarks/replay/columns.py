"""Columns of ``trials.parquet`` and packed answers as arrays, checked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from replay.header import TRIALS, Value, text
from spaces.errors import BadInput


class Columns:
    """The columns of one file.

    Raises:
        BadInput: naming the file, the column and the row (from 0).
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / TRIALS
        try:
            self._columns = pyarrow.parquet.read_table(self.path)
        except (OSError, pyarrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"{self.path}: cannot be read as Parquet ({reason})") from error
        self.rows: int = self._columns.num_rows
        if self.rows == 0:
            raise BadInput(f"{self.path}: has no rows; record at least one candidate")

    def __contains__(self, name: str) -> bool:
        return name in self._columns.column_names

    def values(self, name: str) -> list[object]:
        """A column as it is; None where a cell is null."""
        if self._columns.column_names.count(name) != 1:
            raise BadInput(f"{self.path}: has no column {name!r}, or more than one; table.json asks for one")
        found: list[object] = self._columns.column(name).to_pylist()
        return found

    def codes(self, name: str, listed: Sequence[Value]) -> npt.NDArray[np.int16]:
        """The position of each row's value in ``listed``; -1 where the cell is null: the knob does not count."""
        positions = {text(value): code for code, value in enumerate(listed)}
        found = np.full(self.rows, -1, dtype=np.int16)
        for row, cell in enumerate(self.values(name)):
            if cell is None or cell != cell:  # not-a-number is how some writers put null
                continue
            code = positions.get(text(cell)) if isinstance(cell, str | int | float) else None
            if code is None:
                raise self.bad(name, row, f"{cell!r} is not among the knob's values in table.json")
            found[row] = code
        return found

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A column of numbers; not-a-number where a cell is null."""
        cells = self.values(name)
        for row, cell in enumerate(cells):
            if cell is not None and (isinstance(cell, bool) or not isinstance(cell, int | float)):
                raise self.bad(name, row, f"{cell!r} is not a number")
        return np.array([np.nan if cell is None else cell for cell in cells], dtype=np.float64)

    def seconds(self, name: str, ok: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """A column of costs; 0 where a cell is null, which only a candidate that is not ok may have."""
        found = self.numbers(name)
        for row in np.flatnonzero((ok & np.isnan(found)) | np.isinf(found) | (found < 0)):
            raise self.bad(name, int(row), "seconds are a finite number, at least 0")
        return np.nan_to_num(found, nan=0.0)

    def texts(self, name: str, among: Sequence[str] = ()) -> npt.NDArray[np.str_]:
        """A column of text, empty where a cell is null; one of ``among`` where that is given."""
        cells = ["" if cell is None else cell for cell in self.values(name)]
        for row, cell in enumerate(cells):
            if not isinstance(cell, str) or (among and cell not in among):
                raise self.bad(name, row, f"{cell!r} is not {' or '.join(map(repr, among)) if among else 'text'}")
        return np.array(cells, dtype=np.str_)

    def samples(self, name: str) -> list[list[float]]:
        """A column of lists of numbers; empty where a cell is null."""
        found: list[list[float]] = []
        for row, cell in enumerate(self.values(name)):
            if cell is not None and not (isinstance(cell, list) and all(isinstance(x, int | float) for x in cell)):
                raise self.bad(name, row, "is not a list of numbers")
            found.append(cell or [])
        return found

    def bad(self, name: str, row: int, why: str) -> BadInput:
        """What is wrong with one cell."""
        return BadInput(f"{self.path}: column {name!r}, row {row}: {why}")


def packed(path: Path, rows: int, items: int) -> npt.NDArray[np.uint8]:
    """Packed answers, (rows, ceil(items / 8)).

    Raises:
        BadInput: for a file that is not such an array.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path}: cannot be read as an array ({str(error).splitlines()[0]})") from error
    wide = -(-items // 8)
    fits = isinstance(found, np.ndarray) and found.dtype == np.uint8 and found.ndim == 2 and found.shape[0] == rows
    if not fits or found.shape[1] != wide:
        raise BadInput(f"{path}: is not uint8 of shape ({rows}, {wide}): a row per candidate, a bit per item")
    return np.asarray(found)
