"""Tiers of the stream connection in PyTorch: same function, same gradients, different speed (docs/performance.md).

`eager.py` is PyTorch's own operations and the definition of what a tier does. `fused.py` is a tier around a set of
kernels: `native.py` has the C kernels next to it, which `build.py` compiles at first use; `gpu.py` has those of
`triton_kernels/`, for CUDA, which `proof.py` compares with PyTorch before they are used; `compiled.py` has
torch.compile make them. `choice.py` says which tier a run gets, and why.
"""
