"""Records, subsets, templates and token ids."""
