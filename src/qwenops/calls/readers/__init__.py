"""Calls from whatever files people have: one function that opens them, one file for each family of formats.

`open_calls` finds out what a file is and yields its calls one by one, with their labels where the file has some;
`open_labels` does so for files of labels alone. What cannot be read is kept as problems, by line and field.

    opening     which format a file has, and which reader reads it
    documents   the values of a JSON file, one at a time, however large it is
    rows        the rows of a CSV file     sheets      the rows of a workbook
    columns     what columns and keys are called, and how their values are written
    turns       who says what in one long text
    records     a row or an object with known columns becomes a call and a label
    tables, transcripts, training          the formats
"""

from qwenops.calls.readers.entries import Entry, Format, LabelEntry, Reading, ReadOptions
from qwenops.calls.readers.opening import open_calls, open_labels

__all__ = [
    "Entry",
    "Format",
    "LabelEntry",
    "ReadOptions",
    "Reading",
    "open_calls",
    "open_labels",
]
