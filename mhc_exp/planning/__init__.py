"""What a run needs before it runs: parameters, FLOPs, bytes moved, memory with and without recomputation, step time."""
