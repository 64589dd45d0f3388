"""The machine, rows as lines of text, and the table."""

import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark import programs as benchmark_programs
from mcjax.runs.tables import table
from mcjax.runtime.target import target


def peak_bytes() -> dict[str, int]:
    """The peak memory of this process so far: on the device, where JAX knows it, and on the host."""
    on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    on_device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"host": on_host} if on_device is None else {"host": on_host, "device": on_device}


def about_machine() -> dict[str, Any]:
    """Device, versions, and the rate of a large matrix product in float32."""
    from experiments.benchmark import torch_peer

    on_cpu = target() == "cpu"
    size = 2048 if on_cpu else 8192
    mine = benchmark_programs.matmul_flops(size)
    theirs = torch_peer.matmul_flops(size)
    names = ("mcjax", "jax", "jaxlib", "torch", "numpy")
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names_of = (line.split(": ")[1] for line in lines if line.startswith("model name"))
    processor = next(names_of, platform.processor())
    device = f"{processor}, {os.cpu_count()} cores" if on_cpu else jax.devices()[0].device_kind
    return {
        "device": device,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "load_at_start": os.getloadavg()[0],
        "peak_flops": max(mine, theirs),
        "matmul_flops": {"jax": mine, "torch": theirs, "size": size},
        "memory": "of mcjax: XLA's analysis of the largest program; of PyTorch: max_memory_allocated, on CUDA",
    }


def line_of(row: dict[str, Any]) -> str:
    """A row in one line of text."""
    times = [f"{side} {_seconds(row[side])}" for side in ("mcjax", "pytorch")]
    return f"{row['model']}, pairs {row['pairs']}, {row['workload']}, {row['sizes']}: {', '.join(times)}"


def _seconds(side: dict[str, Any]) -> str:
    if side["median"] is None:
        return side["error"] or "not measured"
    return f"{side['median']:.3g} ({min(side['seconds']):.3g}-{max(side['seconds']):.3g})"


def print_table(about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Print the machine and the table."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    print(f"\n{about['device']}; {versions}")
    print(
        f"{about['data']}, {about['rounds']} rounds, epochs in {about['compute_dtype']}, float32 products in "
        f"{about['precision']}, largest matrix product {about['peak_flops'] / 1e9:,.0f} GFLOP/s"
    )
    head = ["", "pairs", "sizes", "mcjax s", "PyTorch s", "ratio", "compile s", "GFLOP/s", "of peak", "memory MB"]
    cells = []
    for row in rows:
        mine, theirs = row["mcjax"], row["pytorch"]
        failed = "failed" if mine["error"] else ""
        ratio = f"{row['ratio']:.2f} ({min(row['ratios']):.2f}-{max(row['ratios']):.2f})" if row["ratios"] else "-"
        cells.append(
            [
                f"{row['model']} {row['workload']}",
                str(row["pairs"]),
                row["sizes"],
                failed or _seconds(mine),
                "failed" if theirs["error"] else _seconds(theirs),
                ratio,
                failed or f"{mine['compile']:.1f}",
                failed or f"{mine['flops'] / 1e9:,.1f}",
                failed or f"{mine['share_of_peak']:.1%}",
                " / ".join(f"{side['memory_bytes'] / 1e6:,.0f}" for side in (mine, theirs) if side["memory_bytes"]),
            ]
        )
    print(table(head, cells))
    for row in rows:
        for side in ("mcjax", "pytorch"):
            if error := row[side]["error"]:
                print(f"{row['model']} {row['workload']}, {row['pairs']} pairs, {side} failed: {error}")
