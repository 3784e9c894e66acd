"""The gate: every promise of a run, checked from the files themselves, and the report for people."""
