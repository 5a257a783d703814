"""From vectors to codes: quantisers, and the health of what they make."""
