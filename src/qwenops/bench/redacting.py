"""What a server said about a request, without what it repeats of the request: prompts are recorded only where wanted.

Pure. Servers quote as they like, so a prompt is looked for as it is, with its blanks folded, and as JSON writes it.
"""

import json
from collections.abc import Iterator, Sequence

LONGEST_REPEATED = 11
"""Characters in a row that a message may share with a prompt: words that both happen to use."""
GAP = "…"


def without(message: str, texts: Sequence[str]) -> str:
    """Return a message in which every run of 12 or more characters that stands in one of the texts is left out."""
    least = LONGEST_REPEATED + 1
    if len(message) < least:
        return message
    where = "\0".join(form for text in texts for form in _forms(text))
    kept, at = "", 0
    while at < len(message):
        end = at + least
        if end > len(message) or message[at:end] not in where:
            kept += message[at]
            at += 1
            continue
        while end < len(message) and message[at : end + 1] in where:
            end += 1
        kept += GAP
        at = end
    return kept


def _forms(text: str) -> Iterator[str]:
    """Yield how a text may be written by who repeats it."""
    yield text
    yield " ".join(text.split())
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]
    yield repr(text)[1:-1]
