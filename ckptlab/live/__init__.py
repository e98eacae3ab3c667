"""Real ranks, started from a notebook and driven from it.

The notebook's own process never joins a process group. No pictures in here.
"""
