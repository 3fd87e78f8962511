"""Compiles every kernel that one connection launches to machine code for a GPU, which need not be there.

Command: python compile_kernels.py ARCHITECTURE STREAMS WIDTH DTYPE CASE [all]. Prints a line of JSON per kernel and
choice of block sizes (all of them, or the first): name, registers per thread, bytes spilled, bytes of shared memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from tiers import step, variant_of
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from mhc_exp.torch.kernels.fused import Fused
from mhc_exp.torch.kernels.gpu import TritonKernels
from mhc_exp.torch.streams import HyperConnection

TOKENS = 32
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


def main(architecture: str, streams: str, width: str, dtype: str, case: str, every: str = "") -> None:
    def launch(kernel: JITFunction, *arguments: object, grid: object, warmup: bool, **options: object) -> None:
        print(json.dumps(compiled(kernel, arguments, options, GPUTarget("cuda", int(architecture), 32))), flush=True)

    def tune(tuner: Autotuner, *arguments: object, **options: object) -> None:
        for config in tuner.configs if every else tuner.configs[:1]:
            tuner.fn.run(*arguments, **options, **config.all_kwargs())

    JITFunction.run, Autotuner.run = launch, tune
    variant = variant_of(case, int(streams))
    connection = HyperConnection(variant, int(width))
    x = torch.zeros(TOKENS, variant.streams, int(width), dtype=getattr(torch, dtype), requires_grad=True)
    waiting = torch.zeros(variant.streams, TOKENS, requires_grad=True) if variant.read_from == "previous" else None
    outputs = step(Fused(TritonKernels()), connection, x, waiting)
    torch.stack([output.float().sum() for output in outputs]).sum().backward()


def compiled(kernel: JITFunction, arguments: tuple, options: dict, target: GPUTarget) -> dict[str, object]:
    named = dict(zip(kernel.arg_names, arguments, strict=False))
    constants = {name: value for name, value in named.items() if value is None}
    constants |= {name: value for name, value in options.items() if name in kernel.arg_names}
    signature = {name: kind(value) for name, value in named.items()} | dict.fromkeys(constants, "constexpr")
    aligned = {(place,): [["tt.divisibility", 16]] for place, value in enumerate(arguments) if divisible(value)}
    launching = {name: options[name] for name in ("num_warps", "enable_fp_fusion") if name in options}
    found = triton.compile(ASTSource(kernel, signature, constants, aligned), target=target, options=launching)
    used = dict(re.findall(r"(REG|STACK):(\d+)", resources(found.asm["cubin"])))
    blocks = {name: options[name] for name in ("BN", "BC") if name in options}
    sizes = {"registers": int(used["REG"]), "spilled": int(used["STACK"]), "shared": found.metadata.shared}
    return {"kernel": kernel.__name__, **blocks, **sizes}


def kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


def divisible(value: object) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


def resources(program: bytes) -> str:
    reader = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program)
        file.flush()
        command = [str(reader), "--dump-resource-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
