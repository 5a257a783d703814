"""One module a raw format; each ends in a `RawData`."""
