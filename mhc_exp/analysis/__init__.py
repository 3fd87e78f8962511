"""Analysis: from the rows of a run on disk to numbers, pictures and sentences."""
