"""Measures this machine's two limits: multiply-adds and memory bandwidth, by number of threads.

python benchmarks/roofline.py [--threads 1 --threads 2]
"""

from __future__ import annotations

import click

from mobilenet_tvm.compile.analysis.peak import measure_peak
from mobilenet_tvm.targets.host import core_count
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.presets import native as this_machine


@click.command()
@click.option("--threads", type=int, multiple=True, help="Default: 1 and all cores.")
def main(threads: tuple[int, ...]) -> None:
    """Print float32 GFLOP/s and GB/s for the instruction sets that this machine has."""
    native = this_machine()
    targets = [t for t in PRESETS.values() if t.architecture == native.architecture and not t.gpu]
    fitting = [t for t in targets if set(t.required_features) <= set(native.required_features)]
    for count in threads or sorted({1, core_count()}):
        for target in fitting:
            peak = measure_peak(target, count)
            click.echo(
                f"{count} threads, {target.name:<11} {peak.gflops:7.1f} GFLOP/s "
                f"{peak.gbytes:6.1f} GB/s, balanced at {peak.gflops / peak.gbytes:.1f} flops a byte"
            )


if __name__ == "__main__":
    main()
