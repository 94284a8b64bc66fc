"""Rows of a benchmark: measured in the order of their value, within a time, and written one by one.

A machine that is lent for a few minutes may be gone before the end. So each row is in the file as soon as it is
measured, the next run goes on from there, and the file says which rows are missing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import BEGAN
from benchmarks.record import RESULTS, SMALL, kept_results, record

Row = tuple[str, ...]  # the names that lead to its result: ("forward", "14b, text to video", "stock")
Results = dict[str, Any]


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--within", type=float, default=float("inf"), metavar="SECONDS", help="begin no row that would end later"
    )
    parser.add_argument("--again", action="store_true", help="measure what an earlier run on this machine kept, too")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs; kept in results/small")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where results are kept")


def measure_rows(
    rows: Sequence[Row],
    results: Results,
    measure: Callable[[Row], Any],
    within_s: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
    began: float = BEGAN,
) -> Iterator[Row | None]:
    """Measure each of `rows` that `results` lacks and put it there; yield None before the first, and each row after it.

    A row begins only if it would end `within_s` seconds after `began`: if it takes as long as the last one of the same
    way, or as the median of all so far. One that fails has its error as its result, and the next run measures it again.
    """
    took: dict[str, float] = {}
    yield None
    for row in [row for row in rows if not is_measured(results, row)]:
        start = clock()
        expected = took.get(row[-1], statistics.median(took.values()) if took else 0.0)
        if start - began + expected > within_s:
            continue
        try:
            found = measure(row)
        except Exception as error:
            found = str(error).strip().split("\n")[0][:200] or type(error).__name__
        put(results, row, found)
        took[row[-1]] = clock() - start
        yield row


def measure_and_record(
    name: str,
    rows: Sequence[Row],
    every_row: Sequence[Row],
    measure: Callable[[Row], Any],
    complete: Callable[[Results], None],
    flags: argparse.Namespace,
    clock: Callable[[], float] = time.monotonic,
    began: float = BEGAN,
) -> None:
    """Measure `rows` and write the results after each; `complete` adds what follows from them. The file also says which
    of `every_row` are missing.
    """
    folder = flags.results or (SMALL if flags.small else RESULTS)
    results = {} if flags.again or flags.small else kept_results(name, folder)
    for row in measure_rows(rows, results, measure, flags.within, clock, began):
        complete(results)
        record(name, results, [words(one) for one in every_row if get(results, one) is None], folder, shown=False)
        if row:
            print(words(row), get(results, row), file=sys.stderr)


def words(row: Row) -> str:
    """
    >>> words(("forward", "14b, text to video", "stock"))
    'forward: 14b, text to video: stock'
    """
    return ": ".join(row)


def is_measured(results: Results, row: Row) -> bool:
    """Whether the row is there and did not fail."""
    return get(results, row) is not None and not isinstance(get(results, row), str)


def get(results: Results, row: Row) -> Any:
    """The result of a row; None where it is missing."""
    found: Any = results
    for name in row:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def put(results: Results, row: Row, found: Any) -> None:
    """
    >>> results = {}
    >>> put(results, ("a", "b"), 1)
    >>> results
    {'a': {'b': 1}}
    """
    *outer, last = row
    for name in outer:
        results = results.setdefault(name, {})
    results[last] = found
