"""Trajectories: a dataset card becomes recorded episodes on disk.

Comes in: a dataset card and a pool of workers. Goes out: a Minari dataset, with the simulator's
states where it has any, and the record of how it came about.
"""
