"""The bars that a generative model has to clear."""
