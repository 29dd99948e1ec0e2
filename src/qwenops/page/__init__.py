"""One offline HTML file: words, tables and plots in every language that we speak, with nothing fetched from anywhere.

    html = render(Page(title=..., sections=[...]), language="zh")

`document.py` says what a page holds and `plot.py` what a plot holds; both are plain data. `drawing.py` turns a plot
into SVG, `matrix.py` has tables of coloured squares, `html.py` turns a page into its file. Every text is a
`Text` (shown in the reader's language) or a plain `str` (the same in all). Whoever makes a report uses `document` and
`plot`, and calls `render`.
"""
