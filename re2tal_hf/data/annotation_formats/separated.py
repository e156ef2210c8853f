"""Tables as text, with commas, semicolons or tabs between their columns."""

from __future__ import annotations

import csv
from collections.abc import Collection

from .annotation_file import AnnotationFile

_DELIMITERS = ("\t", ";", ",", "|")
Rows = list[tuple[int, list[str]]]


def rows_of(file: AnnotationFile) -> Rows:
    """Returns the rows that are not empty, each with the number of its line; cells without blanks around them.

    Raises:
        AnnotationError: A quote is open to the end, or a cell is longer than any label.
    """
    lines = file.lines()
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=head.count)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise file.error(f"{error}; mend its quotes", f"line {reader.line_num}") from error
    return rows


def first_rows(file: AnnotationFile, count: int = 40) -> Rows:
    """Returns the rows at the beginning; none of what is no table."""
    text = file.text
    if text is None or text.lstrip().startswith(("{", "[", "<")):
        return []
    lines = text[:100_000].splitlines()[:count]
    delimiter = max(_DELIMITERS, key=next((line for line in lines if line.strip()), "").count)
    rows = enumerate(csv.reader(lines, delimiter=delimiter), start=1)
    try:
        return [(number, [cell.strip() for cell in row]) for number, row in rows if row]
    except csv.Error:
        return []


def cell(row: list[str], column: int | None) -> str:
    """Returns a cell; empty where the row is too short or there is no such column."""
    return row[column] if column is not None and column < len(row) else ""


def has_columns(file: AnnotationFile, names: Collection[str]) -> bool:
    """Whether the first line of a table names these columns."""
    rows = first_rows(file, 1)
    return bool(rows) and set(names) <= set(rows[0][1])


def named_rows(file: AnnotationFile, names: Collection[str]) -> list[tuple[str, dict[str, str]]]:
    """Returns the rows below the header, each with its place for messages and its cells by their names.

    Raises:
        AnnotationError: The table lacks one of these columns, or cannot be read.
    """
    (_, header), *rows = rows_of(file) or [(1, [])]
    if lacking := [name for name in names if name not in header]:
        raise file.error(f"there is no column {lacking[0]!r}; give the table as it was published", "line 1")
    columns = {name: header.index(name) for name in names}
    return [(f"line {line}", {name: cell(row, column) for name, column in columns.items()}) for line, row in rows]
