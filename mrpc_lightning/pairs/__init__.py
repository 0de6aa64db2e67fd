"""What the data is made of.

`files` reads tables, `sources` finds MRPC and other data sets, and `checks` refuses or leaves out pairs that cannot be
used. `tokens` tokenizes them, `batches` decides which pairs share a batch, and `values` checks the keys. `reader` reads
a table of any size for a prediction, and `tables` adds the predictions to it.
"""
