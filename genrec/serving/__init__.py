"""What leaves the lab: bundles, the graph in them, and the runtime that needs neither torch nor this package."""
