"""Preferences: trajectories become segments, scores and answers, in one verified file.

Comes in: trajectories, a scorer, an annotator, or a researcher's own arrays. Goes out: one
`.safetensors` file that a reader can vouch for.
"""
