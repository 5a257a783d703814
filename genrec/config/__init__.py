"""Typed configuration: schemas and their loader."""
