"""What a wiring is, without a framework: layout of its coefficients, initial values, numpy reference, gains."""
