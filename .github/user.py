"""What a user writes, for pyright to check: the package's types reach them."""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

from mrpc_lightning import MRPCDataModule, ParaphraseClassifier, Prediction, Predictor, Run, main

data = MRPCDataModule("demo", max_length=64, train=[("It rose.", "It fell.", 0)])
model = ParaphraseClassifier("demo", pretrained=False, learning_rate=1e-3)
predictor = Predictor.from_run("best", threshold=0.7)
assert_type(predictor.predict([("It rose.", "It fell.")]), list[Prediction])
assert_type(model.predict([("It rose.", "It fell.")])[0].label, str)
f1: float = Run.find("best").metrics["f1"]
main(["test"])
MRPCDataModule("demo", ma_length=64)  # pyright: ignore  # a mistake that is to be seen
