"""How scenes look: one drawing widget, the same scenes in matplotlib, and the panels round them.

A painter chooses colour and place, never content: what could be asserted without a browser
belongs to `explorer`.
"""

from ckptlab.widgets.explore import Explorer, explore
from ckptlab.widgets.view import SceneView

__all__ = ["Explorer", "SceneView", "explore"]
