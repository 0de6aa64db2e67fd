"""From a run to the people who use its model.

`predictor` predicts pairs in code and in a pipe, `predict` those of a file of any size: `parts` holds what is done of a
prediction that is not finished, and `tables` writes its table. `export` writes a model folder
for transformers and for ONNX Runtime, with the `card` that the Hub shows, and uploads it.
"""
