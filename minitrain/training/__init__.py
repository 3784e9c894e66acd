"""What the training loop works on and what becomes of it: the state, its checks, checkpoints, the exported model."""
