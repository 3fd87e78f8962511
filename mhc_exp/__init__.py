"""mhc_exp: the laboratory for the residual stream."""

import time as _time

__version__ = "0.1.0"

STARTED = _time.monotonic()
"""When this process first imported the package, for the time from command to first step."""
