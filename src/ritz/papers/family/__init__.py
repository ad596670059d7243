"""Papers on Gaussian and other families, and on solvers that fit them."""
