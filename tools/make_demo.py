"""Make the demo's files: a small paraphrase corpus, a WordPiece vocabulary from it, a small BERT's configuration.

    python tools/make_demo.py FOLDER

The files beside this one came from this command, and a test makes them again and compares. A meaning is a frame (a
kind of news), one of its two opposite events, and a value for each slot. Two wordings of one meaning are
"equivalent". A negative is a near miss that shares most of its words: the opposite event, or one slot changed.
"""

import csv
import json
import random
import string
import sys
from pathlib import Path

TRAINING_PAIRS, VALIDATION_PAIRS = 4000, 500
EQUIVALENT_SHARE = 0.6  # of all pairs; MRPC has 0.67
OPPOSITE_SHARE = 0.8  # of the negatives; the others have one slot changed
FIRST_SIDE_SHARE = (
    0.75  # of the events; with even odds, opposites are a pure exclusive-or, which a small model rarely finds
)

# The values of a slot; each is a list of wordings that mean the same.
SLOTS: dict[str, list[list[str]]] = {
    "person": [["Anna Keller", "Keller"], ["David Osei", "Osei"], ["Maria Lopez", "Lopez"], ["Viktor Hale", "Hale"]],
    "company": [["Nordal"], ["Brightwater"], ["Tessaro"], ["Quillon"]],
    "team": [["Riverton"], ["Eastport"], ["Ashford"], ["Glenmoor"]],
    "city": [["Lisbon"], ["Oslo"], ["Dublin"], ["Vienna"]],
    "day": [["on Monday"], ["on Tuesday"], ["on Thursday"], ["on Friday"]],
    "number": [["three", "3"], ["eight", "8"], ["twelve", "12", "a dozen"], ["forty", "40"]],
    "place": [["library"], ["museum"], ["clinic", "hospital"], ["stadium", "arena"], ["harbour", "port"]],
    "measure": [["coffee prices", "the price of coffee"], ["rents"], ["exports"], ["car sales", "sales of cars"]],
    "staff": [["nurses"], ["drivers"], ["engineers"], ["teachers"]],
}

# Each frame is its two opposite predicates, each with its wordings, and the sentences that they go into.
FRAMES: list[tuple[tuple[list[str], list[str]], list[str]]] = [
    (
        (["rose", "climbed", "went up"], ["fell", "dropped", "went down"]),
        [
            "{measure} in {city} {predicate} by {number} percent {day}.",
            "{day}, {measure} in {city} {predicate} by {number} percent.",
            "In {city}, {measure} {predicate} by {number} percent {day}.",
            "{measure} {predicate} {number} percent in {city} {day}, figures show.",
        ],
    ),
    (
        (
            ["opened", "opened its doors", "welcomed its first visitors"],
            ["closed", "shut its doors", "saw its last visitors"],
        ),
        [
            "The {place} in {city} {predicate} {day}, {person} said.",
            "{person} said that the {city} {place} {predicate} {day}.",
            "According to {person}, the {place} in {city} {predicate} {day}.",
            "{day}, the {city} {place} {predicate}, said {person}.",
        ],
    ),
    (
        (["won", "were victorious", "came out ahead"], ["lost", "were defeated", "came off worse"]),
        [
            "{team} {predicate} by {number} points in {city} {day}.",
            "{day} in {city}, {team} {predicate} by {number} points.",
            "In {city}, {team} {predicate} {day}, with {number} points between the sides.",
        ],
    ),
    (
        (["hired", "took on", "recruited"], ["dismissed", "laid off", "let go"]),
        [
            "{company} {predicate} {number} {staff} in {city} {day}.",
            "{day}, {company} {predicate} {number} of its {staff} in {city}.",
            "In {city}, {company} {predicate} {number} {staff} {day}, the firm confirmed.",
        ],
    ),
]


def draw_pair(generator: random.Random, equivalent: bool) -> tuple[str, str]:
    """Draw two sentences with one meaning, or with two meanings that differ in a single point."""
    predicates, sentences = generator.choice(FRAMES)
    slots = [slot for slot in SLOTS if "{" + slot + "}" in sentences[0]]
    side, values = int(generator.random() > FIRST_SIDE_SHARE), {slot: draw_value(slot, generator) for slot in slots}
    other_side, other_values = side, dict(values)
    if not equivalent and generator.random() < OPPOSITE_SHARE:
        other_side = 1 - side
    elif not equivalent:
        slot = generator.choice(slots)
        while other_values[slot] == values[slot]:
            other_values[slot] = draw_value(slot, generator)
    first = word(generator.choice(sentences), predicates[side], values, generator)
    return first, word(generator.choice(sentences), predicates[other_side], other_values, generator)


def draw_value(slot: str, generator: random.Random) -> int:
    """Draw a value's index; the n-th value is 1/n as frequent as the first (Zipf's law)."""
    values = range(len(SLOTS[slot]))
    return generator.choices(values, [1 / (1 + value) for value in values])[0]


def word(sentence: str, predicates: list[str], values: dict[str, int], generator: random.Random) -> str:
    """Write a meaning down as a sentence."""
    words = {slot: generator.choice(SLOTS[slot][value]) for slot, value in values.items()}
    text = sentence.format(predicate=generator.choice(predicates), **words)
    return text[0].upper() + text[1:]


def draw_corpus(pairs: int, generator: random.Random, seen: set[frozenset[str]]) -> list[tuple[str, str, int]]:
    """Draw pairs of two different sentences, none of them in `seen` in either order."""
    rows: list[tuple[str, str, int]] = []
    while len(rows) < pairs:
        equivalent = generator.random() < EQUIVALENT_SHARE
        sentence1, sentence2 = draw_pair(generator, equivalent)
        key = frozenset((sentence1, sentence2))
        if len(key) == 2 and key not in seen:
            seen.add(key)
            rows.append((sentence1, sentence2, int(equivalent)))
    return rows


def write_corpus(path: Path, rows: list[tuple[str, str, int]]) -> None:
    """Write pairs as a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sentence1", "sentence2", "label"])
        writer.writerows(rows)


def write_tokenizer(folder: Path, sentences: list[str]) -> int:
    """Write BERT's kind of tokenizer (lower case, WordPiece) and return the size of its vocabulary, in word pieces.

    The pieces are the corpus's words and, so that no word of a user's is unknown, each letter, digit and mark.
    The `tokenizers` library's own trainer is passed over because it breaks ties differently from run to run.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words = {word for sentence in sentences for word, _ in split(sentence.lower())}
    letters = string.ascii_lowercase + string.digits
    pieces = {*letters, *string.punctuation, *words}
    vocabulary = [*special, *sorted(pieces), *("##" + letter for letter in letters)]
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 64,
        **{
            name: f"[{name.split('_')[0].upper()}]"
            for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(vocabulary)


def main(folder: Path) -> None:
    """Write all of the demo's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, seen = random.Random(0), set[frozenset[str]]()
    training = draw_corpus(TRAINING_PAIRS, generator, seen)
    write_corpus(folder / "train.csv", training)
    write_corpus(folder / "validation.csv", draw_corpus(VALIDATION_PAIRS, generator, seen))
    vocabulary_size = write_tokenizer(folder, [sentence for row in training for sentence in row[:2]])
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": vocabulary_size,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 64,
        # BERT's 0.02 suits its width of 768; a narrow encoder that is not pretrained learns from larger weights.
        "initializer_range": 0.05,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
