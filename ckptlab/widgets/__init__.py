"""How scenes look: one drawing widget, the same scenes in matplotlib, and the panels round them.

A painter chooses colour and place, never content: what could be asserted without a browser
belongs to `explorer`.
"""
