"""Papers on what an objective says of causes, independence and information."""
