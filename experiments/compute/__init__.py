"""Where simulations run: a Ray cluster of our own or one that is there already, and the actors on it."""
