"""The processor that programs are compiled for, found before jax starts."""

import platform
import zlib
from pathlib import Path


def processor() -> tuple[str, str]:
    """Its model, and a checksum of the vector instructions that it has."""
    about = Path("/proc/cpuinfo")
    if not about.exists():
        return platform.processor() or platform.machine(), ""
    lines = dict(line.split(":", 1) for line in about.read_text().splitlines() if ":" in line)
    said = {name.strip(): value.strip() for name, value in lines.items()}
    known = said.get("flags", said.get("Features", "")).split()
    vectors = sorted(flag for flag in known if flag.startswith(("avx", "sse", "fma", "f16c", "amx", "asimd", "sve")))
    return said.get("model name", platform.machine()), f"{zlib.crc32(' '.join(vectors).encode()):08x}"
