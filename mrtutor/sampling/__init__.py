"""Sampling: the pipeline, what it is asked for, and its weights on disk."""
