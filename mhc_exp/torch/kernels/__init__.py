"""Tiers of the stream connection in PyTorch: same function, same gradients, different speed (docs/performance.md).

`eager.py` is PyTorch's own operations and the definition of what a tier does; `native.py` calls the C kernels next to
it, which `build.py` compiles at first use; `choice.py` says which tier a run gets, and why.
"""
