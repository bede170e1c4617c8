"""Training: one loop, objectives as callables, stages that put them together."""
