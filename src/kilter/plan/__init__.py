"""What will run: the graph of stages, their keys, and estimates."""
