"""Tuning logs: which decision a layer gets, and where that is written down."""
