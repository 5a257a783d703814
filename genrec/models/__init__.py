"""Recommenders: networks that give the probability of the next item's codes; they know no configuration, no search."""
