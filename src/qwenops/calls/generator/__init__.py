"""Synthetic calls with known truth: something to test a pipeline with, never a measure of a model on real calls.

    scenario    what a call is about, in which mood, by whom (`scenario.py`)
    plan        what happens in it, act by act (`plan.py`)
    words       what is said, in the words of one author (`surface.py`, `tongue.py`, `identity.py`)
    channel     what speech recognition makes of it (`channel.py`), and the turns that come out (`transcript.py`)
    label       what an annotator makes of that (`annotator.py`)

Everything follows from the seed and the number of the call. `generate.generate` yields calls with label and truth;
`write.write` makes a folder of them. The data lies in `data/`: packs by author, confusions, names, facts about leaves.
"""
