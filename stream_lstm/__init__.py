"""Carry an LSTM along a live series, one element at a time, and predict the next sign."""

__version__ = "0.1.0"
