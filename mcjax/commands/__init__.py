"""Commands of the command line: each is a frozen dataclass, parsed by tyro, with a method `run`."""
