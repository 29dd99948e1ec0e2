"""What can be chosen about training. What follows from the machine is decided there, with the reason told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwenops.options import Unit, option

ClassWeights = Literal["none", "balanced", "effective"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train one adapter. 0 for a number means: decide from this machine, and say why."""

    model_dir: Path = Path()
    """Folder of the checkpoint; no option, because whoever prepares the model knows it."""
    model_name: str = ""
    """What the model is called, for the manifest."""
    out: Path = Path()
    """Folder of the run: the checkpoint while it lasts, the adapter at the end."""
    epochs: int = option(4, help="How often each call is seen at most.", minimum=0, maximum=1000)
    batch_calls: int = option(16, help="Calls of one step.", minimum=1, maximum=4096, flag="--batch")
    learning_rate: float = option(2e-4, help="The highest learning rate.", minimum=0, maximum=1)
    head_learning_rate: float = option(
        1e-3, help="The highest learning rate of a head that is trained.", minimum=0, maximum=1, flag=False
    )
    warmup_share: float = option(
        0.06, help="Share of all steps in which the learning rate rises.", minimum=0, maximum=1, flag=False
    )
    weight_decay: float = option(0.01, help="Decay of the weights.", minimum=0, maximum=1, flag=False)
    clip_norm: float = option(1.0, help="The longest gradient; 0 for any.", minimum=0, flag=False)
    rank: int = option(16, help="Rank of the LoRA matrices.", minimum=1, maximum=1024)
    alpha: int = option(32, help="Scale of the LoRA matrices, times the rank.", minimum=1, maximum=4096, flag=False)
    dropout: float = option(0.05, help="Share of LoRA's inputs that is left out.", minimum=0, maximum=0.9, flag=False)
    top_layers: int = option(
        0,
        help="Train only so many of the last layers, over what the others gave once; several times faster. 0 is all.",
        minimum=0,
        maximum=1024,
    )
    trained_head: bool = option(False, help="Train the rows of the head, too.", flag=False)
    max_tokens: int = option(
        1024,
        help="The longest prompt; of longer calls the middle is left out.",
        unit=Unit.TOKENS,
        minimum=64,
        maximum=32768,
    )
    legend: bool = option(False, help="Tell the model the name of each class in the prompt.", flag=False)
    micro_tokens: int = option(
        2048, help="Tokens computed at once; fewer where memory is short.", unit=Unit.TOKENS, minimum=64, flag=False
    )
    logit_adjustment: float = option(
        1.0, help="How far frequent classes are held back (0 to 1), for recall of rare ones.", minimum=0, maximum=2
    )
    label_smoothing: float = option(0.05, help="Share of each label given to all classes.", minimum=0, maximum=0.5)
    class_weights: ClassWeights = option(
        "none", help="Whether calls of rare classes count more.", choices=("none", "balanced", "effective")
    )
    patience: int = option(2, help="Epochs without a better macro-F1 after which training ends.", minimum=1)
    probe: bool = option(True, help="Fit a linear model on the untrained model's states first, as a first answer.")
    precision: Literal["auto", "bf16", "f32"] = option(
        "auto", help="Arithmetic; auto measures which is faster.", choices=("auto", "bf16", "f32")
    )
    four_bit: Literal["auto", "always", "never"] = option(
        "auto",
        help="Keep the frozen matrices in four bits (QLoRA): slower, and only where memory is short.",
        choices=("auto", "always", "never"),
    )
    recompute: bool = option(
        False,
        help="Compute layers twice instead of keeping what they gave: a third slower, far less memory.",
        flag=False,
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", help="Where to compute.", choices=("auto", "cpu", "cuda"), flag=False
    )
    threads: int = option(
        0, help="Threads that compute; 0 uses the cores this process may really use.", minimum=0, maximum=1024
    )
    checkpoint_every_s: float = option(
        600.0, help="Time between checkpoints.", unit=Unit.SECONDS, minimum=0, flag="--checkpoint-every"
    )
    cache_dir: Path = option(
        Path(), help="Folder for what frozen layers gave; runs on the same model share it.", flag="--cache"
    )
    seed: int = option(0, help="Seed of everything that is left to chance.", minimum=0, maximum=2**31 - 1)
    restart: bool = option(False, help="Begin anew where another run's checkpoint lies.")
