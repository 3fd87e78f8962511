"""A process that trains two steps and prints when it got where: `python -m ... STARTED OVERRIDES...` (suite `startup`).

Nothing is imported before the clock is read: the imports are what is measured.
"""

import time

BEGAN = time.monotonic()

PHASES = ("interpreter", "configuration", "framework", "model", "first step", "second step")


def main() -> None:
    """Print seconds of each phase, and the processor seconds until the end of the first step, as JSON."""
    import itertools
    import json
    import sys

    moments = [float(sys.argv[1]), BEGAN]
    from mhc_exp.benchmarks.cases import Model, configuration

    config = configuration(sys.argv[2:])
    if isinstance(config, str):
        sys.exit(config)
    moments.append(time.monotonic())
    from mhc_exp.data import make_task
    from mhc_exp.training.backends import make_trainer

    if config.backend.name == "mlx":
        import mhc_exp.mlx.trainer
    else:
        import mhc_exp.torch.trainer  # noqa: F401
    moments.append(time.monotonic())
    task = make_task(config)
    model = Model(make_trainer(config, task.vocab_size), task.batch(0, config.training.batch_size))
    moments.append(time.monotonic())
    model.step()
    cpu = time.process_time()
    moments.append(time.monotonic())
    model.step()
    moments.append(time.monotonic())
    seconds = [after - before for before, after in itertools.pairwise(moments)]
    print(json.dumps(dict(zip(PHASES, seconds, strict=True)) | {"cpu": cpu}))


if __name__ == "__main__":
    main()
