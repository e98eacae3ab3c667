"""The puzzles of the notebooks, a module a lesson: what is asked, and what is said to an answer.

`ask` holds what all lessons share: a guess before a run, a verdict on an answer. Nothing but
the command line imports this room.
"""
