"""Whether both engines say the same: scenarios played in both, judged by bounds, and what of it was validated."""
