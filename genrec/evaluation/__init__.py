"""Metrics, slices, intervals and tests over full rankings."""
