"""The door: words on a command line become calls, one short function a verb.

Comes in: `cpl-bench VERB …`. Goes out: text, an exit code, and nothing of substance of its own.
"""
