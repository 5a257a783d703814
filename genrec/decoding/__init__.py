"""From a scorer to ranked items: searches that see the trie and log-probabilities, and no network."""
