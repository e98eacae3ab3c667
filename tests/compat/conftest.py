"""Fixtures of the tests against stock DCP."""

from ranks_fixture import ranks4

__all__ = ["ranks4"]
