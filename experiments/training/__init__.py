"""Training: in an actor of its own (`actor`), resumable, tracked and registered (`job`)."""
