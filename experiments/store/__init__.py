"""What lies on disk: the state folder, results, finished sweeps, digests that tell them apart, links to their pages."""
