"""Experiments of papers on transport, bridges and learned diffusions."""
