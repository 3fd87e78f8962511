"""What mhc_exp.torch.Watch wrote about connections in somebody's training: read, drawn, and one page about it.

`recorded.py` reads a directory, `streams.py` and `history.py` are the pictures of the two kinds of connections with
those of `shared.py`, `page.py` is what `mhc-exp report DIRECTORY` writes.
"""
