"""The stream connection as Triton kernels, for CUDA: what is in ../*.c, in the same three parts. Needs triton.

Axes: N tokens, S streams, C width, P coefficients. Streams and what sublayers read and write are float32 or bfloat16,
coefficients float32 and tokens-last; sums are float32. Every program owns its outputs: there are no atomic additions,
and sums over all tokens are taken in a fixed order, so the same launch gives the same bits.
"""
