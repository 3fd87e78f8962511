"""`mhc-exp bench`: what the wirings cost on this machine, a module per suite (docs/performance.md).

`measure.py` takes the times, `agreement.py` refuses to time what computes something else, `result.py` is what a suite
hands over, `table.py` and `pictures.py` show it. What is timed in PyTorch is in mhc_exp.torch.benchmarks.
"""
