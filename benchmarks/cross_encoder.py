"""sentence-transformers' CrossEncoder, trained as its documentation does, in bf16."""

from typing import Any

import torch
from clock import options, read_pairs, scores
from datasets import Dataset
from hf_trainer import Steps
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import CrossEntropyLoss
from transformers import set_seed


class ScoredSteps(Steps):
    """Also scores the validation split after each epoch."""

    def __init__(self, model: CrossEncoder, validation: dict[str, list[Any]]) -> None:
        super().__init__(model)
        self.model, self.validation = model, validation

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop, and score."""
        super().on_epoch_end()
        pairs = list(zip(self.validation["sentence1"], self.validation["sentence2"], strict=True))
        with torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16):
            logits = self.model.predict(pairs, batch_size=64, show_progress_bar=False)
        self.metrics = scores(self.validation["label"], logits.argmax(axis=-1).tolist())


def main() -> None:
    """Train and score."""
    asked = options()
    set_seed(asked.seed)
    model = CrossEncoder(str(asked.folder / "encoder"), num_labels=2, max_length=asked.max_length)
    splits = {split: read_pairs(asked.folder / f"{split}.jsonl") for split in ("train", "validation")}
    for split in splits.values():
        split["label"] = list(map(int, split["label"]))
    steps = ScoredSteps(model, splits["validation"])
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(asked.out.parent / "st"),
        num_train_epochs=asked.epochs,
        per_device_train_batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        warmup_steps=0.1,
        bf16=True,
        seed=asked.seed,
        save_strategy="epoch",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    trainer = CrossEncoderTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict(splits["train"]),
        loss=CrossEntropyLoss(model),
        callbacks=[steps],
    )
    trainer.train()
    steps.clock.write(asked.out, *steps.metrics)


if __name__ == "__main__":
    main()
