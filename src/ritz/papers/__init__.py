"""Papers as runnable checks: one file a paper, `ritz.papers.<module>.<slug>`."""
