"""The kilter command, one module a verb."""
