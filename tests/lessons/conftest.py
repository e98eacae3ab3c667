"""Fixtures of the tests of the lessons."""

from ranks_fixture import ranks4

__all__ = ["ranks4"]
