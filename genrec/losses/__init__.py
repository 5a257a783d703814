"""Training objectives as pure functions of log-probabilities and codes; they know no model, data or configuration."""
