"""A user who loses patience, for tests of what is left then."""


class DyingPool:
    """A pool whose user loses patience: Ctrl-C at the n-th evaluation."""

    def __init__(self, pool, evaluations):
        self.pool, self.left = pool, evaluations

    def episodes(self, *arguments, **options):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.pool.episodes(*arguments, **options)
