"""The commands, one a file: each parses into a frozen dataclass and runs."""
