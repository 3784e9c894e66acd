"""The corpus: the conjugation of verbs, the rows made from it, and the shards on disk with their manifest."""
