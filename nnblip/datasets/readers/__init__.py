"""One file per format. Each gives a `Dataset` of the same record, `nnblip.Example`."""
