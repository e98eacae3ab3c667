"""Fixtures of the tests of torch's names."""

from ranks_fixture import ranks4

__all__ = ["ranks4"]
