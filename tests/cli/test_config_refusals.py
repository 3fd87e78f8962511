"""A command that makes no sense is refused: exit code 2, the right key, what is legal, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from door import Door

UNKNOWN = [
    ("dept=48", "dept", "did you mean 'depth'?"),
    ("+dept=1", "dept", "did you mean 'depth'?"),
    ("++x=1", "x", "unknown key"),
    ("+depth=1", "+depth", "type depth=... without the +"),
    ("~depth", "~depth", "cannot be deleted"),
    ("model.widht=3", "model.widht", "did you mean 'model.width'?"),
    ("lr=1e-3", "lr", "did you mean 'optimizer.lr'?"),
    ("train.steps=10", "train.steps", "did you mean 'training.steps'?"),
    ("model/width=3", "model/width", "did you mean 'model.width'?"),
    ("depth.x=1", "depth.x", "type depth=..."),
    ("model.zebra=1", "model.zebra", "keys of model: model.width"),
    ("variant.streams=8", "variant.streams", "variant=baseline has no such key; it belongs to variant="),
    ("dataset.hops=3", "dataset.hops", "it belongs to dataset=pointer_chasing"),
    ("depth", "depth", "did you mean depth=...?"),
    ("mhc", "mhc", "did you mean variant=mhc?"),
    ("--depth=48", "--depth=48", "type depth=48"),
    ("depth=[1,2", "depth=[1,2", "cannot be read"),
    ("=3", "=3", "key=value"),
    ("hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_", "never names code"),
]
"""Words that name nothing: (word, where, what the answer says)."""

OPTIONS = [
    ("variant=mch", "variant", "did you mean 'mhc'?"),
    ("variant=mch", "variant", "options: "),
    ("+variant=mhc", "+variant", "type variant=... without the +"),
    ("variant=4", "variant", "takes the name of a variant"),
    ("launch=null", "launch", "one of auto, inline, process"),
    ("variant@body=mhc", "variant@body", "packages are not used"),
    ("dataset=../../etc/passwd", "dataset", "no dataset is called"),
    ("experiment=smok", "experiment", "did you mean 'smoke'?"),
    ("sweep=depth", "sweep", "python -m mhc_exp -m sweep=depth"),
    ("sweep=dept", "sweep", "did you mean 'depth'?"),
    ("variant=baseline,mhc", "variant", "python -m mhc_exp -m variant=baseline,mhc"),
    ("variant=glob(m*)", "variant", "need -m"),
    ("depth=12,24", "depth", "python -m mhc_exp -m depth=12,24"),
    ("seed=range(3)", "seed", "need -m"),
    ("tracking.tags=a,b", "tracking.tags", "tracking.tags=[a,b]"),
    ("--config-name=other", "--config-path, --config-name", "--config-dir"),
    ("--config-dir=nowhere", "--config-dir", "no directory 'nowhere'"),
    ("--experimental-rerun=config.pickle", "--experimental-rerun", "unpickles"),
    ("--resolve", "--resolve", "--cfg job"),
]

VALUES = [
    ("depth=deep", "depth", "expected a whole number, got 'deep'"),
    ("depth=1.5", "depth", "expected a whole number"),
    ("depth=0", "depth", "must be at least 1"),
    ("depth=true", "depth", "expected a whole number"),
    ("depth=", "depth", "expected a whole number"),
    ("depth=null", "depth", "expected a whole number"),
    ("depth=???", "depth", "needs a value"),
    ("depth=${nope}", "depth", "'nope' not found"),
    ("seed=-1", "seed", "must be at least 0"),
    ("optimizer.lr=nan", "optimizer.lr", "must be finite"),
    ("optimizer.lr=inf", "optimizer.lr", "must be finite"),
    ("optimizer.lr=-1", "optimizer.lr", "must be above 0"),
    ("optimizer.beta1=1.0", "optimizer.beta1", "at most 0.9999"),
    ("optimizer.schedule=cosin", "optimizer.schedule", "did you mean 'cosine'?"),
    ("training.nonfinite=ignore", "training.nonfinite", "stop, skip_step, continue"),
    ("training.keep_checkpoints=1", "training.keep_checkpoints", "must be at least 2"),
    ("model.bias=yes please", "model.bias", "expected true or false"),
    ("model=[tiny]", "model", "takes the name of a model"),
    ("tracking.tags=[1]", "tracking.tags", "expected a list of str"),
    ("name=7", "name", "expected text"),
]

RULES = [
    ("training.tokens=100000", "training", "type training.steps=null training.tokens=100000"),
    ("training.steps=null", "training", "exactly one of training.steps, training.tokens, training.flops"),
    ("training.steps=null training.tokens=100", "training.tokens", "training.tokens=1024 or more"),
    ("model.width=65", "model.width", "not divisible by model.heads=4; type model.width=64"),
    ("model.width=12 model.positions=rotary", "model.positions", "even head width"),
    ("training.accumulation=3", "training.accumulation", "1, 2, 4, 8, 16"),
    ("optimizer.schedule=wsd optimizer.warmup=0.9", "optimizer.cooldown", "type optimizer.cooldown=0.1"),
    ("variant=mhc variant.mix.start=softmax", "variant.mix.start", "type variant.mix.order=columns_last"),
    ("variant=demo_hc variant.coefficients=dynamic", "variant.read.activation", "type variant.coefficients=static"),
    ("variant=mhc variant.init=hc_paper", "variant.init", "made for read gates linear, got sigmoid"),
    ("variant=mhc variant.mix.chart=free", "variant.init", "variant.init=hc_paper"),
    ("variant=hc variant.init=demo", "variant.init", "softmax_rows"),
    (
        "variant=kromhc variant.streams=3",
        "variant.mix.chart",
        "power of two (2, 4, 8, 16, 32 or 64) streams, got 3",
    ),
    ("variant=ohc variant.streams=8", "variant.mix.chart", "exactly 4 streams, got 8; type variant.streams=4"),
    ("variant=mhc_lite variant.streams=6", "variant.mix.chart", "type variant.streams=5 or variant.mix.chart=sinkhorn"),
    ("variant=go_mhc variant.streams=16", "variant.mix.chart", "at most 16, got 16 with expansion 2"),
    ("variant=hc variant.mix.chart=cayley", "variant.norm", "type variant.norm=flat_rms"),
    ("variant=hc variant.mix.scale=fixed", "variant.mix.scale", "variant.mix.scale=learned"),
    ("variant=deepseek_v4 variant.mix.solver=newton", "variant.mix.solver", "type variant.mix.start=exp"),
    ("variant=mhc variant.mix.solver=newton variant.mix.iterations=19", "variant.mix.iterations", "iterations=20, or"),
    ("variant=mhc variant.mix.solver=newton variant.streams=5", "variant.mix.iterations", "5 streams need 32, got 20"),
    ("variant=xhc variant.mix.solver=newton variant.mix.iterations=5", "variant.mix.iterations", "4 streams need 20"),
    ("variant=ohc variant.coefficients=static", "variant.init", "copies of each other for ever"),
    ("variant=mhc_lite variant.mix.budget=0", "variant.mix.budget", "above 0"),
    ("variant=mhc variant.name=../evil", "variant.name", "not a name"),
    ("variant=hc variant.mix.iterations=5", "variant.mix.iterations", "no effect with variant.mix.chart=free"),
    ("variant=kromhc variant.mix={eps:0.1}", "variant.mix.eps", "or type variant.mix.chart=sinkhorn"),
    ("dataset=text", "dataset.path", "needs a value; type dataset.path=..."),
    ("dataset=text dataset.path=nowhere", "dataset.path", "'nowhere' does not exist"),
    ("dataset=tokens dataset.train=a*.bin dataset.validation=b.bin", "dataset.train", "no file matches 'a*.bin'"),
    ("dataset=hub dataset.id=owner/data", "dataset.revision", "read at a commit"),
    ("dataset=hub dataset.id=owner/data dataset.revision=main", "dataset.revision", "branches move; got 'main'"),
    ("dataset=hub dataset.id=my.jsonl", "dataset.id", "'my.jsonl' does not exist"),
    ("dataset=pointer_chasing dataset.nodes=1000", "model.seq_len", "type model.seq_len="),
    ("backend.dtype=float16", "backend.dtype", "float32, bfloat16"),
    ("backend=cpu backend.tf32=true", "backend.tf32", "type backend.tf32=false"),
    ("backend=cpu backend.graphs=true training.recompute=none", "backend.graphs", "type backend.graphs=false"),
    ("backend=cuda backend.graphs=true", "backend.graphs", "type training.recompute=none"),
    ("backend=cuda backend.graphs=true model.dropout=0.1", "backend.graphs", "type model.dropout=0"),
    ("launch=inline launch.timeout=5", "launch.timeout", "type launch=process"),
    ("runs_root=", "runs_root", "type runs_root=runs"),
    ("runs_root='~/runs'", "runs_root", "~ is not expanded"),
    ("runs_root=/dev/null/runs", "runs_root", "'/dev/null' is a file"),
    ("tracking.project=", "tracking.project", "may not be empty"),
    ("seed=99999999999999999999", "seed", "below 2^63"),
    ("depth=10000 model.width=100000", "model", "very roughly"),
    ("name=../../evil", "name", "not a name"),
    ("name=con", "name", "reserved"),
    ("hydra.nope=1", "hydra.nope", "Could not override"),
]


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Door:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MHC_RUNS", raising=False)
    return Door(tmp_path, monkeypatch, capfd)


@pytest.mark.fault(row=24)
@pytest.mark.parametrize(("words", "where", "says"), UNKNOWN + OPTIONS + VALUES + RULES)
def test_a_bad_command_is_refused_with_the_key_and_the_remedy(door: Door, words: str, where: str, says: str) -> None:
    spaced = words.split() if words in {rule[0] for rule in RULES} else [words]
    said = door(*spaced)
    assert said.code == 2
    complaints = [line for line in said.err.splitlines() if where in line and says in line]
    assert complaints, said.err
    assert "Traceback" not in said.err + said.out
    assert door.left_behind() == []


def test_all_problems_of_a_command_line_are_reported_at_once(door: Door) -> None:
    said = door("dept=48", "variant=mch", "model.width=-1", "~seed", "sweep=depth")
    for where in ("dept:", "variant:", "model.width:", "~seed:", "sweep:"):
        assert f"  {where}" in said.err
    assert "(5 problems)" in said.err


def test_all_problems_of_a_composed_configuration_are_reported_at_once(door: Door) -> None:
    said = door("model.width=65", "training.accumulation=3", "variant=mhc", "variant.init=demo", "name=a/b")
    for where in ("model.width:", "training.accumulation:", "variant.init:", "name:"):
        assert f"  {where}" in said.err


def test_every_value_of_a_sweep_is_checked_before_the_first_job(door: Door) -> None:
    said = door("-m", "depth=12,deep,0", "variant=mhc,mch", "optimizer.lr=choice(1e-3,nan)", "seed=range(0,3,0)")
    for fragment in ("got 'deep'", "got 0", "'mch'", "got nan", "step other than 0"):
        assert fragment in said.err
    assert said.code == 2
    assert door.left_behind() == []


def test_a_key_must_exist_for_every_option_of_a_sweep(door: Door) -> None:
    said = door("-m", "variant=mhc,baseline", "variant.streams=2,4")
    assert said.code == 2
    assert "variant=baseline has no such key" in said.err


def test_the_values_of_a_sweep_file_count_as_chosen(door: Door) -> None:
    said = door("-m", "sweep=depth", "variant.streams=2")
    assert said.code == 2
    assert "variant=baseline has no such key" in said.err


def test_the_dataset_of_an_experiment_owns_its_keys(door: Door) -> None:
    assert "dataset=increment has no such key" in door("experiment=seed_demo", "dataset.hops=2").err


@pytest.mark.parametrize("flags", [("-m", "--cfg", "job"), ("--cfg", "nonsense"), ("--cfg",)])
def test_flags_that_contradict_each_other_are_refused(door: Door, flags: tuple[str, ...]) -> None:
    said = door("depth=3", *flags)
    assert said.code == 2
    assert "Traceback" not in said.err


@pytest.mark.parametrize("words", [["dept=48"], ["model.width=65"], ["hydra.nope=1"]])
def test_a_refused_process_exits_2_and_leaves_nothing(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "mhc_exp", *words]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "Traceback" not in said.stderr
    assert said.stdout == ""
    assert words[0].split("=")[0] in said.stderr
    assert list(tmp_path.iterdir()) == []
