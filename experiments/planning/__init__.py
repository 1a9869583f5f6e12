"""What is asked: specifications and their rules, and the points that they stand for."""
