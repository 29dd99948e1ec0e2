"""The learning rate of each step: it rises from 0 in a straight line, then falls to 0 along half a cosine.

A function of the step alone, so a run that is taken up again needs no state of it.
"""

import math


def rate(step: int, num_steps: int, *, highest: float, warmup_share: float) -> float:
    """Return the learning rate of a step.

    Args:
        step: From 0.
        num_steps: All steps of the run, as if it would not end early.
        highest: The rate at the end of the rise.
        warmup_share: Share of the steps in which it rises; the first step is never 0.
    """
    rising = math.ceil(num_steps * warmup_share)
    if step < rising:
        return highest * (step + 1) / rising
    falling = max(1, num_steps - rising)
    return highest * 0.5 * (1.0 + math.cos(math.pi * min(step - rising, falling) / falling))
