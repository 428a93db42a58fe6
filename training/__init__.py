"""How segmate's default model is made: prepare, train, validate, export (see README.md)."""
