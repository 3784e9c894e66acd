"""From rows to batches: tokenizer, split, stores of token sequences, the order of data."""
