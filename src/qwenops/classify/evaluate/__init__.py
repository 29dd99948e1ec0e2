"""How good a classifier is, how sure that is, and whether another one is better.

`judging.evaluate` makes an `Evaluation` (`evaluation.py` has all its parts): `levels` of the taxonomy from `counts`,
`reliability` of the probabilities, the `selective` use of them, `slicing` of the calls. `comparing.compare` holds two
classifiers of the same calls against one another.
"""

from qwenops.classify.evaluate.comparing import Outcome, Verdict, compare, compare_all, verdict_sentences
from qwenops.classify.evaluate.evaluation import Estimate, Evaluation, notes_of
from qwenops.classify.evaluate.judging import evaluate

__all__ = [
    "Estimate",
    "Evaluation",
    "Outcome",
    "Verdict",
    "compare",
    "compare_all",
    "evaluate",
    "notes_of",
    "verdict_sentences",
]
