"""What a plan will take before it runs: memory, GPUs, time, bytes and money. Pure, and without torch."""
