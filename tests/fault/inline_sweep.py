"""`mhc-exp ARGUMENTS` whose jobs train with numpy in this very process."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from numpy_worker import NumpyTrainer

from mhc_exp import cli
from mhc_exp.training import backends

if __name__ == "__main__":
    backends.make_trainer = NumpyTrainer
    sys.argv[0] = "mhc-exp"
    sys.exit(cli.main())
