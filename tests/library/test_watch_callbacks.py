"""Watching as callbacks, in the real Lightning and the real Trainer of transformers, on tiny models: `make library`."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mhc_exp import commands
from mhc_exp.analysis.rows import read_layers, read_records
from mhc_exp.torch import HyperSequential, inject

pytestmark = [pytest.mark.library, pytest.mark.filterwarnings("ignore")]
WIDTH = 8


def network() -> nn.Module:
    torch.manual_seed(0)
    branches = [nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3)]
    return nn.Sequential(nn.Linear(5, WIDTH), HyperSequential(branches, WIDTH, kernels="eager"), nn.Linear(WIDTH, 1))


# --- Lightning -------------------------------------------------------------------------------------------------------


def fit(directory: Path | None, *, steps: int = 5, **keys) -> tuple[nn.Module, list[float]]:
    """The module after training, and the losses that it saw."""
    lightning = pytest.importorskip("lightning.pytorch")
    losses: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            loss = self.network(batch[0]).square().mean()
            losses.append(loss.item())
            return loss

        def validation_step(self, batch: list[Tensor], index: int) -> None:
            self.log("val/loss", self.network(batch[0]).square().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = DataLoader(TensorDataset(torch.randn(24, 5, generator=torch.Generator().manual_seed(0))), batch_size=4)
    callback = importlib.import_module("mhc_exp.torch.library.lightning").ConnectionsCallback
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    callbacks = [] if directory is None else [callback(directory, every=2)]
    module = Module()
    lightning.Trainer(max_steps=steps, callbacks=callbacks, enable_model_summary=False, **quiet, **keys).fit(
        module, data, data
    )
    return module, losses


def test_lightning_is_recorded_and_not_touched(tmp_path):
    plain, _ = fit(None)
    module, losses = fit(tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(module.parameters(), plain.parameters(), strict=True))
    rows = {row["step"]: row for row in read_records(tmp_path).rows}
    assert [step for step, row in rows.items() if "gain/forward_amax_max" in row] == [0, 2, 4]
    assert [rows[step]["train/loss"] for step in (0, 2, 4)] == pytest.approx([losses[step] for step in (0, 2, 4)])
    assert all(rows[step]["train/grad_norm"] > 0 for step in (0, 2, 4))
    assert len(read_layers(tmp_path)[0]["grad/flow"]) == 3


def test_lightning_records_validation_and_an_accumulated_batch_as_one_step(tmp_path):
    _, losses = fit(tmp_path, steps=3, accumulate_grad_batches=2)
    rows = {row["step"]: row for row in read_records(tmp_path).rows}
    assert sorted(rows) == [0, 2, 3]
    assert rows[0]["train/loss"] == pytest.approx(sum(losses[:2]) / 2)
    assert rows[3]["val/loss"] > 0


# --- transformers ----------------------------------------------------------------------------------------------------


class Tokens(Dataset):
    """The same eight sequences every time."""

    def __init__(self):
        self.tokens = torch.randint(31, (8, 6), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def language_model() -> nn.Module:
    package = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 31, "n_positions": 16}
    config = package.GPT2Config(**sizes, bos_token_id=0, eos_token_id=None, pad_token_id=None)
    return inject(package.GPT2LMHeadModel(config), "mhc", init="lite_repo")


def trained(directory: Path | None, scratch: Path, **keys) -> nn.Module:
    package = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    callback = importlib.import_module("mhc_exp.torch.library.transformers").ConnectionsCallback
    arguments = package.TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=2,
        max_steps=5,
        logging_steps=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        **keys,
    )
    callbacks = [] if directory is None else [callback(directory, every=2)]
    model = language_model()
    package.Trainer(model=model, args=arguments, train_dataset=Tokens(), callbacks=callbacks).train()
    return model


@pytest.mark.parametrize("keys", [{}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}])
def test_the_trainer_of_transformers_is_recorded_and_not_touched(keys, tmp_path):
    plain = trained(None, tmp_path / "scratch", **keys)
    model = trained(tmp_path / "watched", tmp_path / "scratch", **keys)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), plain.parameters(), strict=True))
    rows = {row["step"]: row for row in read_records(tmp_path / "watched").rows}
    assert [step for step, row in rows.items() if "gain/forward_amax_max" in row] == [0, 2, 4]
    assert all({"train/loss", "train/lr", "train/grad_norm", "grad/mix"} <= set(rows[step]) for step in (2, 4))
    lines = read_layers(tmp_path / "watched")
    assert [len(line["grad/flow"]) for line in lines] == [4, 4, 4]
    assert commands.run("report", [str(tmp_path / "watched")]) == 0
