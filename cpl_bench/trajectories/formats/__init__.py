"""How trajectories lie on disk: a file a format."""
