"""Experiments: questions that run. What each file of `experiments/` stands on, and what runs, lists and compares them.

experiment.py   what an experiment is: a question, claims about it, what it runs by default
options.py      what can be asked of every experiment
sources.py      data sets with pictures of their own, parted by type, refused where something is missing
choose.py       questions that the model answers correctly; stopped, it goes on
record.py       whose folder is this: of the same command, or of another
run.py          one run: stages, figures, texts, claims; at the end `summary.md`
maps.py         maps of many examples without what restores by construction
late.py         later against earlier layers, and what their difference is made of
controls.py     random weights, and other states in the place of clean ones
numbers.py      means with intervals, and what they are called
parts.py        thirds of the layers, cuts, and shares that have intervals
similarity.py   how alike two sets of states are: CKA, on plain arrays
probes.py       linear probes and control tasks, on plain arrays
readouts.py     states of many questions, with their pictures and without
evidence.py     what these states say: CKA and probes, labelled
gaze.py         where cross-attention looks
claims.py       holds, fails or not established
texts.py        tables of Markdown
figures.py      axes that look alike, layer profiles
grids.py        maps of layers by heads or by roles
index.py        where the files are
page.py         the page about all of them

A new one starts as a copy of the shortest, `experiments/paper_heatmaps.py`.
"""

from nnblip.experiments.experiment import Defaults, Experiment
from nnblip.experiments.run import Run, perform

__all__ = ["Defaults", "Experiment", "Run", "perform"]
