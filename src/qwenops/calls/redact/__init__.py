"""Personal data in calls: found where it stands, and replaced by tokens before anything is stored or trained on.

    redacted = redact(call, secret=secret)     # <手机1>, <姓名1>: the same for the same value within the call
    spans = find(call.turns)                   # kind, turn, characters, confidence
    redact_text("我的手机号是幺二八…")            # without a call

`script.py` makes one string of a call; `numbers.py`, `chains.py`, `codes.py`, `emails.py`, `names.py`, `english.py` and
`addresses.py` each look for their part in it; `finding.py` puts their answers together, `replacing.py` the tokens in.
Words and names that they know are data (`lexicon.toml`). Only the standard library, and every look goes a bounded way,
so that text of any kind takes a time that is proportional to its length.
"""

from qwenops.calls.redact.finding import find
from qwenops.calls.redact.replacing import VERSION, Redacted, redact, redact_text
from qwenops.calls.redact.spans import Kind, Span

__all__ = ["VERSION", "Kind", "Redacted", "Span", "find", "redact", "redact_text"]
