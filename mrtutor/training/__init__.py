"""Training: one resumable loop, and the five stages of a run."""
