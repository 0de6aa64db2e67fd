"""A plain PyTorch loop with this project's own settings: what Lightning and the callbacks cost shows beside it."""

from mrpc_lightning.cli.instant import keep_memory

keep_memory()

import torch  # noqa: E402
from clock import Clock, options, read_pairs, scores  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.nn.utils import clip_grad_norm_  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)

from mrpc_lightning.nn.optim import make_schedule, parameter_groups  # noqa: E402
from mrpc_lightning.nn.precision import choose_precision  # noqa: E402
from mrpc_lightning.nn.speedups import make_fast  # noqa: E402
from mrpc_lightning.pairs.batches import WINDOW, EvaluationBatches, TrainingBatches  # noqa: E402


def main() -> None:
    """Train and score."""
    asked = options()
    torch.manual_seed(asked.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, _ = choose_precision(None, "auto")
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False)
    tokenizer = AutoTokenizer.from_pretrained(asked.folder / "encoder")
    model = AutoModelForSequenceClassification.from_pretrained(asked.folder / "encoder", dtype=torch.float32)
    make_fast(model.to(device), device)
    rows, labels, order = {}, {}, {}
    for split in ("train", "validation"):
        pairs = read_pairs(asked.folder / f"{split}.jsonl")
        encoded = tokenizer(pairs["sentence1"], pairs["sentence2"], truncation=True, max_length=asked.max_length)
        rows[split] = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
        labels[split] = torch.tensor(pairs["label"])
        lengths = [len(ids) for ids in encoded["input_ids"]]
        batches = TrainingBatches(lengths, asked.batch_size, asked.seed, WINDOW)
        order[split] = batches if split == "train" else EvaluationBatches(lengths, 64)
    collate = DataCollatorWithPadding(tokenizer)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=asked.learning_rate, fused=True)
    schedule = make_schedule(optimizer, 0.1, len(order["train"]) * asked.epochs)
    clock = Clock()
    for epoch in range(asked.epochs):
        model.train()
        order["train"].set_epoch(epoch)
        clock.resume()
        for batch in order["train"]:
            inputs = collate([rows["train"][row] for row in batch]).to(device)
            with mixed:
                loss = cross_entropy(model(**inputs).logits, labels["train"][batch].to(device))
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            clock.step(inputs["attention_mask"])
        clock.pause()
        model.eval()
        predictions = torch.empty(len(labels["validation"]), dtype=torch.long)
        with torch.inference_mode(), mixed:
            for batch in order["validation"]:
                inputs = collate([rows["validation"][row] for row in batch]).to(device)
                predictions[batch] = model(**inputs).logits.argmax(dim=-1).cpu()
    clock.write(asked.out, *scores(labels["validation"].tolist(), predictions.tolist()))


if __name__ == "__main__":
    main()
