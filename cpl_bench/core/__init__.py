"""The ground floor: what every room may lean on, and what leans on nothing here.

Comes in: TOML files, environment variables, the disk. Goes out: cards, folders, seeds, atomic
files, progress bars, and the one exception for user mistakes. Numpy at most; never torch, no
simulator.
"""
