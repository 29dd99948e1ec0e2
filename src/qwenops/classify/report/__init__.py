"""Pages for people: how good a classifier is, and what calls were about week by week. One offline HTML file each.

`gather` finds what commands left behind and makes a `record` of it; `contents` turns that into a page, made of `head`
(the verdict), `classes` (what is told from what), `trust` (what probabilities are worth), `doubts` (parts of the calls,
labels to look at again), `cost` and `setting` (what was measured on what). `told` reads files of predictions, `weekly`
counts and tests them by week, `trends` shows that. `write` writes either page.
"""

from qwenops.classify.report.write import write_page, write_report, write_trends

__all__ = ["write_page", "write_report", "write_trends"]
