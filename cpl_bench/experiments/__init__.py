"""Experiments: whatever is missing is made, and what was asked is run and published.

Comes in: the names of cards and `experiment.toml`. Goes out: data, runs, reports, and the evidence
in `results/` and `datasets/README.md`.
"""
