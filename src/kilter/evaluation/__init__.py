"""The lm-evaluation-harness runner and what surrounds it."""
