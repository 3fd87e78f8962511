"""The transformer body without a framework: parameter names, initial values, numpy reference, FLOPs."""
