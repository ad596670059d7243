"""Experiments of papers on particles."""
