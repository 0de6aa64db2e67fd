"""A loop as accelerate's MRPC example has it: random batches, padded to their longest pair, in mixed precision."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from clock import Clock, options, read_pairs, scores
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
)


def main() -> None:
    """Train and score."""
    asked = options()
    accelerator = Accelerator(mixed_precision="bf16")
    set_seed(asked.seed)
    encoder = asked.folder / "encoder"
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, dtype=torch.float32)
    rows = {}
    for split in ("train", "validation"):
        pairs = read_pairs(asked.folder / f"{split}.jsonl")
        encoded = tokenizer(pairs["sentence1"], pairs["sentence2"], truncation=True, max_length=asked.max_length)
        columns = {**encoded, "labels": pairs["label"]}
        rows[split] = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    # The example rounds widths up to 8 in mixed precision.
    collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    training = DataLoader(rows["train"], asked.batch_size, shuffle=True, collate_fn=collate, drop_last=True)
    evaluation = DataLoader(rows["validation"], 32, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=asked.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, 100, len(training) * asked.epochs)
    model, optimizer, training, evaluation, schedule = accelerator.prepare(
        model, optimizer, training, evaluation, schedule
    )
    clock = Clock()
    for _ in range(asked.epochs):
        model.train()
        clock.resume()
        for batch in training:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            clock.step(batch["attention_mask"])
        clock.pause()
        model.eval()
        labels: list[int] = []
        predictions: list[int] = []
        for batch in evaluation:
            with torch.no_grad():
                found = model(**batch).logits.argmax(dim=-1)
            found, expected = accelerator.gather_for_metrics((found, batch["labels"]))
            predictions += found.tolist()
            labels += expected.tolist()
    clock.write(asked.out, *scores(labels, predictions))


if __name__ == "__main__":
    main()
