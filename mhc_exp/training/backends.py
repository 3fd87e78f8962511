"""From a backend's name to its trainer; the package is imported only when it is asked for."""

from __future__ import annotations

from mhc_exp.config.machine import PACKAGES, installed
from mhc_exp.config.schema import Config
from mhc_exp.startup import reached
from mhc_exp.training.trainer import Trainer


class BackendMissing(RuntimeError):
    """The package of the chosen backend, or what its kernels need, is not installed."""


def make_trainer(config: Config, vocab_size: int) -> Trainer:
    """The trainer for `config.backend` (resolved, not `auto`), holding the initial weights."""
    package = PACKAGES[config.backend.name]
    if not installed(package):
        raise BackendMissing(
            f"backend={config.backend.name} needs the package {package}; type: pip install 'mhc-exp[{package}]'"
        )
    if package == "torch":
        from mhc_exp.torch.kernels.build import Unavailable
        from mhc_exp.torch.trainer import TorchTrainer

        reached("framework")
        try:
            trainer = TorchTrainer(config, vocab_size)
        except Unavailable as reason:
            raise BackendMissing(
                f"backend.kernels={config.backend.kernels}: {reason}; type backend.kernels=auto"
            ) from None
    else:
        from mhc_exp.mlx.trainer import MLXTrainer

        reached("framework")
        trainer = MLXTrainer(config, vocab_size)
    reached("model")
    return trainer
