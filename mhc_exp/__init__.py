"""mhc_exp: the laboratory for the residual stream."""

__version__ = "0.1.0"
