"""Papers on Bayesian neural networks."""
