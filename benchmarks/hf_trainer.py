"""Hugging Face's Trainer: as `run_glue` configures it, or with all that makes it fast.

The variants: "defaults", "best", and "best-eager", whose attention is the plain one, faster on a CPU.
"""

from typing import Any

import torch
from clock import Clock, options, read_pairs, scores
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


class Steps(TrainerCallback):
    """Tells the clock that all contestants have of a Trainer's steps and epochs."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.clock = Clock()
        self.mask = torch.empty(0)
        model.register_forward_pre_hook(self.remember, with_kwargs=True)

    def remember(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Remember the batch; the step ends later."""
        self.mask = (named or given[0])["attention_mask"]

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Let the clock run."""
        self.clock.resume()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Count."""
        self.clock.step(self.mask)

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop, before the evaluation."""
        self.clock.pause()


def main() -> None:
    """Train and score."""
    asked = options()
    best = asked.variant != "defaults"
    set_seed(asked.seed)
    encoder = asked.folder / "encoder"
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    attention = {"attn_implementation": "eager"} if asked.variant == "best-eager" else {}
    model = AutoModelForSequenceClassification.from_pretrained(encoder, dtype=torch.float32, **attention)

    def tokenize(rows: dict[str, list[str]]) -> Any:
        padding = False if best else "max_length"
        return tokenizer(
            rows["sentence1"], rows["sentence2"], truncation=True, max_length=asked.max_length, padding=padding
        )

    splits = {}
    for split in ("train", "validation"):
        pairs = Dataset.from_dict(read_pairs(asked.folder / f"{split}.jsonl"))
        splits[split] = pairs.map(tokenize, batched=True, remove_columns=["sentence1", "sentence2"])

    def compute_metrics(prediction: Any) -> dict[str, float]:
        found = scores(prediction.label_ids.tolist(), prediction.predictions.argmax(axis=-1).tolist())
        return dict(zip(("accuracy", "f1"), found, strict=True))

    every_epoch = {"eval_strategy": "epoch", "save_strategy": "epoch", "bf16": True}
    arguments = TrainingArguments(
        output_dir=str(asked.out.parent / "hf"),
        num_train_epochs=asked.epochs,
        per_device_train_batch_size=asked.batch_size,
        per_device_eval_batch_size=64 if best else 8,
        learning_rate=asked.learning_rate,
        seed=asked.seed,
        train_sampling_strategy="group_by_length" if best else "random",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        **(every_epoch if best else {}),
    )
    steps = Steps(model)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer) if best else default_data_collator,
        compute_metrics=compute_metrics,
        callbacks=[steps],
    )
    trainer.train()
    figures = next((row for row in reversed(trainer.state.log_history) if "eval_f1" in row), None) or trainer.evaluate()
    steps.clock.write(asked.out, figures["eval_accuracy"], figures["eval_f1"])


if __name__ == "__main__":
    main()
