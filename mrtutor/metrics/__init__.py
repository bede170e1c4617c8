"""Figures of merit, each with its null beside it."""
