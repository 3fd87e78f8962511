"""mhc_exp: the laboratory for the residual stream."""

from mhc_exp import startup as startup  # its clock starts here

__version__ = "0.1.0"
