"""Hand-written loops that do one thing and nothing else: the yardsticks that `devops-sim bench` prints its engines beside."""
