"""Who moves which box, decided before a byte moves: save, load, check, forecast.

The same input gives the same plan on every rank. Plans are columns. No bytes, no clocks,
no threads and no ranks of this process in here.
"""
