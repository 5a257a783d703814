"""From raw files to a checked, split, memory-mapped dataset."""
