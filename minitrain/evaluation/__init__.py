"""What the later stages measure: the round trip of the checkpoint, the drift under fp16, the n-gram baselines."""
