"""Measures the roofline of this machine: peak multiply-adds and memory bandwidth, by threads.

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
    """Print float32 GFLOP/s and GB/s for each instruction set of this machine."""
    native = this_machine()
    targets = [t for t in PRESETS.values() if t.architecture == native.architecture and not t.gpu]
    fitting = [t for t in targets if set(t.required_features) <= set(native.required_features)]
    for count in threads or sorted({1, core_count()}):
        for target in fitting:
            peak = measure_peak(target, count)
            click.echo(
                f"{count} threads, {target.name:<11} {peak.gflops:7.1f} GFLOP/s "
                f"{peak.gbytes:6.1f} GB/s, balance {peak.gflops / peak.gbytes:.1f} flops per byte"
            )


if __name__ == "__main__":
    main()
