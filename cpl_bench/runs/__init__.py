"""Runs: preferences and a method become a run folder, and its policies numbers and films.

Comes in: a preference file, a method's config, a pool of workers. Goes out: `run.json`, metrics,
evaluations, checkpoints, and what a resume needs.
"""
