"""Which prompts are computed together: those of similar length, within a budget of tokens, the oldest first.

A batch is a rectangle: every prompt is padded to the longest one's length, and padding is computed like everything
else. So a batch is filled with the neighbours in length of the prompt that has waited longest; who waits longest is
always in the next batch, so nobody starves. Lengths are rounded up to few values, because OpenVINO prepares its kernels
once for each shape. Pure.
"""

from collections.abc import Sequence

STEPS = ((256, 16), (1024, 32))
"""Up to so many tokens, lengths are rounded up to multiples of so many."""
LARGEST_STEP = 64
MOST_PADDING = 0.25
"""Of a batch, besides the rounding; with more, smaller batches are faster than fuller ones."""


def padded(length: int) -> int:
    """Return the length that a prompt is padded to at least."""
    step = next((step for limit, step in STEPS if length <= limit), LARGEST_STEP)
    return -(-length // step) * step


def choose(lengths: Sequence[int], budget_tokens: int) -> list[int]:
    """Choose the next batch out of waiting prompts.

    Args:
        lengths: Of the prompts, in the order of their arrival.
        budget_tokens: Most tokens of a batch, padding included; a longer prompt is a batch by itself.

    Returns:
        Places in `lengths`, the first one always among them; none when nobody waits.
    """
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lambda each: (lengths[each], each))
    below = above = order.index(0)
    total = padded(lengths[0])
    while True:
        neighbours = [at for at in (below - 1, above + 1) if 0 <= at < len(order)]
        neighbours.sort(key=lambda at: abs(lengths[order[at]] - lengths[0]))
        for at in neighbours:
            more = total + padded(lengths[order[at]])
            if _is_worth_it(above - below + 2, padded(lengths[order[max(above, at)]]), more, budget_tokens):
                below, above, total = min(below, at), max(above, at), more
                break
        else:
            return order[below : above + 1]


def plan(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Divide many prompts into batches, the longest first, so that the end of a job is made of small pieces."""
    batches: list[list[int]] = []
    total = 0
    for each in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        more = total + padded(lengths[each])
        if batches and _is_worth_it(len(batches[-1]) + 1, padded(lengths[batches[-1][0]]), more, budget_tokens):
            batches[-1].append(each)
            total = more
        else:
            batches.append([each])
            total = padded(lengths[each])
    return batches


def _is_worth_it(count: int, longest: int, total: int, budget_tokens: int) -> bool:
    """Say whether a batch of `count` prompts fits the budget, and is not mostly padding."""
    size = count * longest
    return size <= budget_tokens and total >= (1 - MOST_PADDING) * size
