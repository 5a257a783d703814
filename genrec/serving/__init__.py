"""What leaves the lab: bundles, and the programs that answer from them."""
