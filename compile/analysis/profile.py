"""Puts measured times beside what is known of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mobilenet_tvm.compile.analysis.peak import Peak
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.runtime.profile import CallTime


def layer_table(times: Sequence[CallTime], metadata: Metadata, peak: Peak) -> list[dict[str, Any]]:
    """Return a row for each call of a network.

    Parameters
    ----------
    times : sequence of CallTime
        What `runtime.profile` measured.
    metadata : Metadata
        The artifact's, whose `calls` say what each layer computes.
    peak : Peak
        What the machine can do.

    Returns
    -------
    list of dict
        In the network's order: function, microseconds (the median), flops, bytes, gflops,
        gbytes (per second), peak (share of the machine's multiply-adds), workload,
        decision, tuned, and source: a tuning log's record, `default`, or empty where nothing is
        decided.
    """
    known = {call["function"]: call for call in metadata.extra.get("calls", [])}
    rows = []
    for call in times:
        about = known.get(call.function, {})
        flops, moved = about.get("flops", 0), about.get("bytes", 0)
        decision = about.get("decision", {})
        rows.append(
            {
                "function": call.function,
                "microseconds": 1e6 * call.median,
                "flops": flops,
                "bytes": moved,
                "gflops": 1e-9 * flops / call.median,
                "gbytes": 1e-9 * moved / call.median,
                "peak": 1e-9 * flops / call.median / peak.gflops,
                "workload": about.get("workload", call.function),
                "decision": " ".join(f"{name}={value}" for name, value in decision.items()),
                "tuned": about.get("tuned", False),
                "source": about.get("source", ""),
            }
        )
    return rows
