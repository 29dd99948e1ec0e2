"""Short texts whose class is told by words that are sometimes missing, for classifiers of words."""

from dataclasses import dataclass

import numpy as np

WORDS = {
    "fees": ("话费", "多扣", "账单", "月租"),
    "network": ("信号", "断网", "网速", "宽带"),
    "service": ("态度", "挂断", "投诉客服", "没人管"),
    "other": ("咨询", "营业厅", "地址", "几点"),
}
FILLERS = ("你好", "那个", "就是", "我想问一下", "对", "麻烦你", "怎么回事", "昨天", "上个月", "一直", "嗯", "手机")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worded:
    """Texts with their classes and customers."""

    texts: list[str]
    labels: list[str]
    customers: list[str]


def worded(num: int, *, seed: int, told: float = 0.8, size: int = 4) -> Worded:
    """Return texts; `told` is how often a word of the class occurs, else one of any class does."""
    rng = np.random.default_rng(seed)
    names = list(WORDS)[:size]
    texts, labels = [], []
    for _ in range(num):
        label = names[int(rng.integers(0, size))]
        source = label if rng.random() < told else names[int(rng.integers(0, size))]
        words = [*rng.choice(FILLERS, 8), str(rng.choice(WORDS[source]))]
        texts.append("，".join(str(word) for word in rng.permutation(words)))
        labels.append(label)
    return Worded(texts=texts, labels=labels, customers=[f"c{each // 2}" for each in range(num)])
