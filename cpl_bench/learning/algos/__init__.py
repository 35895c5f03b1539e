"""The methods, one file each; `cpl_bench.learning.methods` lists them by name.

A file holds a method's config, its presets and its learner, and confesses where it departs from its
paper. It imports from `learning` and `core.errors` alone.
"""
