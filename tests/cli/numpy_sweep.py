"""`mhc-exp ARGUMENTS` whose jobs train with numpy: `python numpy_sweep.py -m seed=range(8)`. For tests that kill it."""

from __future__ import annotations

import sys
from pathlib import Path

from mhc_exp import cli
from mhc_exp.runs import child

if __name__ == "__main__":
    child._WORKER = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("numpy_worker.py"))]
    child.train_in_child.__kwdefaults__["grace"] = 1.0
    sys.argv[0] = "mhc-exp"
    sys.exit(cli.main())
