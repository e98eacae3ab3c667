"""What a person asks of a checkpoint, answered as plain data.

It knows neither torch nor any drawing library.
"""
