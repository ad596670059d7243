"""Transport: plans, bridges, flows of samples and learned diffusions."""
