"""What the model is made of.

`encoder` loads and restores the encoder, `speedups` makes it fast, `optim` has the optimizer's groups and schedule,
`metrics` the metrics of an epoch, `precision` the number format that a machine computes in; `values` checks the keys.
"""
