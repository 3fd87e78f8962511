"""Kernels are compiled once for all tests, also for those whose processes have a home directory of their own."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("MHC_CACHE", str(Path(tempfile.gettempdir()) / f"mhc_exp-tests-{os.getuid()}"))
