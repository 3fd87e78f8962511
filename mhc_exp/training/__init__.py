"""Training: the loop that every backend shares, and the pure functions it is made of."""
