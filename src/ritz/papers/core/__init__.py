"""Papers on numerical methods that the others build on."""
