"""TRL's trainers, each subclassed so that it takes prepared token ids and reference values as they are."""
