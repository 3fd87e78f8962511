"""What the suite of other people's models needs of its surroundings."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

LIBRARIES: list[torch.library.Library] = []
"""Kept: an operator is forgotten with the library that defined it."""


@pytest.fixture(scope="session")
def operators_of_torchvision() -> None:
    """timm imports torchvision, whose wheel for CUDA has no operators to load beside a PyTorch for CPUs. They are
    declared here, and not called.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    text = (Path(spec.origin).parent / "_meta_registrations.py").read_text(encoding="utf-8")
    names = {one or two for one, two in re.findall(r'torchvision::(\w+)|register_meta\("(\w+)"', text)}
    if torch.version.cuda is None and names:
        declared = torch.library.Library("torchvision", "DEF")
        for name in names:
            declared.define(f"{name}(Tensor x) -> Tensor")
        LIBRARIES.append(declared)
