"""The only place that asks Hydra for a composed configuration, and registers `sweeps/` as group `sweep`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mhc_exp.config import vocabulary
from mhc_exp.config.build import build
from mhc_exp.config.schema import DISCRIMINATORS, Config
from mhc_exp.paths import find

if TYPE_CHECKING:
    from omegaconf import DictConfig


def version_base() -> dict[str, str]:
    """The `version_base` argument for Hydra's entry points: needed by 1.3, deprecated by 1.4."""
    import hydra

    return {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


@functools.cache  # Hydra 1.4 complains about a second registration
def register_sweeps() -> None:
    """Make every sweeps/NAME.yaml selectable as `sweep=NAME`, with `runs_root/NAME` as its directory."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    for file in sorted(find("sweeps").glob("*.yaml")):
        directory = {"hydra": {"sweep": {"dir": f"${{runs_root}}/{file.stem}"}}}
        node = OmegaConf.merge(directory, OmegaConf.load(file))
        ConfigStore.instance().store(group="sweep", name=file.stem, node=node, package="_global_")


def compose(overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> Config:
    """The `Config` that `python -m mhc_exp OVERRIDES` would run (for Python callers and tests)."""
    return build(compose_mapping(overrides, config_dirs)[0])


def compose_mapping(
    overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()
) -> tuple[dict[str, Any], dict[str, str]]:
    """The composed, resolved mapping and the option chosen in every group.

    `config_dirs` are searched beside conf/, as `--config-dir` does. Raises HydraException if nothing can be composed.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    register_sweeps()
    with initialize_config_dir(str(find("conf")), **version_base()):
        composed = hydra_compose("config", [*_beside(config_dirs), *overrides], return_hydra_config=True)
    choices = OmegaConf.to_container(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed["hydra"]
    return OmegaConf.to_container(composed, resolve=True), choices  # type: ignore[return-value]


def compose_plain(overrides: Sequence[str]) -> DictConfig | None:
    """The composed configuration of one run that asks nothing of Hydra but to compose, without its `hydra` node.

    Hydra's own entry composes twice, the first time to learn whether this is a multirun, and needs every sweep
    registered. None where that entry has to do it: a setting of Hydra's own, on the command line or in a file, or
    something that cannot be composed, so that Hydra says why.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    if any(word.lstrip("+~").startswith(("hydra", "sweep")) for word in overrides):
        return None
    try:
        with initialize_config_dir(str(find("conf")), **version_base()):
            composed = hydra_compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return None
    ours = composed.hydra
    if ours.mode not in (None, RunMode.RUN) or ours.callbacks or ours.job.env_set or ours.job.env_copy:
        return None
    with open_dict(composed):
        del composed["hydra"]
    return composed


def compose_jobs(
    overrides: Sequence[str], config_dirs: Sequence[Path] = ()
) -> list[tuple[list[str], dict[str, Any], str | None]] | None:
    """Overrides, mapping and sweep file of every job of `-m OVERRIDES`, as Hydra's own sweeper will make them.

    None if one of them cannot be composed; Hydra says why, before it starts the first.
    """
    from hydra import initialize_config_dir
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    register_sweeps()
    jobs = []
    try:
        with initialize_config_dir(str(find("conf")), **version_base()):
            loader = GlobalHydra.instance().config_loader()
            master = loader.load_configuration("config", [*_beside(config_dirs), *overrides], RunMode.MULTIRUN)
            swept = [f"{key}={values}" for key, values in (master.hydra.sweeper.get("params") or {}).items()]
            parsed = OverridesParser.create(loader).parse_overrides([*swept, *master.hydra.overrides.task])
            for words in BasicSweeper.split_arguments(parsed, None)[0]:
                composed = loader.load_sweep_config(master, words)
                sweep = composed.hydra.runtime.choices.get("sweep")
                with open_dict(composed):
                    del composed["hydra"]
                jobs.append((words, OmegaConf.to_container(composed, resolve=True), sweep))
    except (HydraException, OmegaConfBaseException):
        return None
    return jobs


def _beside(config_dirs: Sequence[Path]) -> list[str]:
    """The override that adds `config_dirs` to where Hydra looks."""
    quoted = ",".join(f"'file://{path.absolute()}'" for path in config_dirs)
    return [f"hydra.searchpath=[{quoted}]"] if config_dirs else []


def option_class(group: str, option: str, config_dirs: Sequence[Path] = ()) -> type | None:
    """The dataclass behind `variant=OPTION` or `dataset=OPTION`, read from its file or from the file it builds on.

    None if the file does not tell (an option of unusual form is judged after composition).
    """
    discriminator, classes = DISCRIMINATORS[group]
    file = vocabulary.option_file(group, option, config_dirs)
    content = _content(file) if file else {}
    if discriminator in content:
        return classes.get(content[discriminator])
    parents = [parent for parent in content.get("defaults", []) if isinstance(parent, str) and parent != "_self_"]
    return option_class(group, parents[0], config_dirs) if parents and parents[0] != option else None


def sweep_params(name: str) -> dict[str, str]:
    """What `sweep=NAME` adds to the command line: key -> values, as in its file's hydra.sweeper.params."""
    file = vocabulary.option_file("sweep", name)
    content = _content(file) if file else {}
    for key in ("hydra", "sweeper", "params"):
        content = content.get(key) or {}
    return {key: str(value) for key, value in content.items()}


@functools.cache
def _content(file: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(OmegaConf.load(file))
    return content if isinstance(content, dict) else {}  # type: ignore[return-value]
