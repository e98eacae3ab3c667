"""Fixtures of the engine's tests."""

from ranks_fixture import ranks4

__all__ = ["ranks4"]
