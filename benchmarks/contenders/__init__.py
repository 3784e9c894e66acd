"""The same training in four ways. Each module has ``build(work, ...) -> Contender``; none imports another."""
