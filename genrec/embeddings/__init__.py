"""From item text or signals to float32 vectors [N, E]."""
