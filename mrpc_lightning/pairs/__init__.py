"""What the data is made of.

`files` reads tables, `sources` finds MRPC and other data sets and checks their pairs, `tokens` tokenizes them,
`batches` decides which pairs share a batch, and `values` checks the keys.
"""
