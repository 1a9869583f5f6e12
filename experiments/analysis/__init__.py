"""What the numbers say: means with intervals, groups of what may be ranked, ties, savings, names and amounts in words."""
