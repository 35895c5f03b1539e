"""What a learner is: batches in, better policies out, with no word of files or simulators.

Comes in: batches of segments or episodes, frozen configs, seeds. Goes out: algorithms with phases,
policies and states; `methods` lists them by name.
"""
