"""String sampling: chains of networks below a threshold."""

from mcjax.strings.config import StringConfig
from mcjax.strings.families import Family, evolve_string
from mcjax.strings.sample import sample_string, sample_strings
from mcjax.strings.strand import Segment, String

__all__ = [
    "Family",
    "Segment",
    "String",
    "StringConfig",
    "evolve_string",
    "sample_string",
    "sample_strings",
]
