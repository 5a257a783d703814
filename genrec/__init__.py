"""Generative recommendation, from raw interactions to the served item id."""

__version__ = "0.1.0"
