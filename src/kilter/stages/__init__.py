"""The registry of stages, and what each one runs."""
