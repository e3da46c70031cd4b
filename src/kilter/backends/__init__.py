"""Who runs a plan."""
