"""Torch tensors and ranks: carries out a plan.

Geometry it asks of `layout`, formats of `storage`; it knows no notebook.
"""
