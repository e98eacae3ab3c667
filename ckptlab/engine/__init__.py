"""Torch tensors and ranks: carries out a plan.

Geometry it asks of `layout`, formats of `storage`; it knows no notebook.
"""

from ckptlab.engine.async_save import SaveFuture, async_save
from ckptlab.engine.load import LoadReport, load
from ckptlab.engine.save import SaveReport, save
from ckptlab.engine.verify import Verdict, verify_loaded

__all__ = ["LoadReport", "SaveFuture", "SaveReport", "Verdict", "async_save", "load", "save", "verify_loaded"]
