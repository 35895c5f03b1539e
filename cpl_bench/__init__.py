"""The benchmark for learning robot policies from preferences, offline."""
