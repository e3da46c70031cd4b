"""Runs a plan on this machine, each stage in a process of its own."""
