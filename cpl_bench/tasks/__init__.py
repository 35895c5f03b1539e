"""Simulators: task cards become environments, and environments become episodes.

Comes in: a task card, seeds, policies as plain arrays. Goes out: whole episodes, run by worker
processes that know numpy and the simulator, never torch. `registry` has the Gymnasium ids.
"""
