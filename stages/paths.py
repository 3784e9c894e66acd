"""Where the stages find and leave things, relative to the project's root."""

from pathlib import Path

BATCHES = Path("data/batches")
MODELS = Path("models")
EVIDENCE = MODELS / "evidence"  # what the round-trip stage needs to check the model's promises
PLOTS = Path("plots")
LOCK = Path("requirements.lock")
