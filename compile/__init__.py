"""What happens to a model: named models, ONNX import, graph passes, code, artifact, tuning.

Each command of the command line is one of these functions; importing one imports TVM, which takes
about a second.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilenet_tvm.compile.analysis.bench import BenchResult, bench_artifact, sweep_threads
    from mobilenet_tvm.compile.analysis.profile import ProfileResult, profile_artifact
    from mobilenet_tvm.compile.analysis.verify import VerifyResult, verify_artifact
    from mobilenet_tvm.compile.artifact import Artifact, compile_model
    from mobilenet_tvm.compile.compress.evaluate import Evaluation, evaluate_model
    from mobilenet_tvm.compile.compress.pictures import Preprocessing
    from mobilenet_tvm.compile.compress.prune import PruneOptions, PruneResult, prune_model
    from mobilenet_tvm.compile.compress.quantize import (
        QuantizeOptions,
        QuantizeResult,
        quantize_model,
    )
    from mobilenet_tvm.compile.listing import list_models, list_targets
    from mobilenet_tvm.compile.models.source import ModelOptions
    from mobilenet_tvm.compile.report.write_report import ReportResult, write_report
    from mobilenet_tvm.compile.tuning.session import (
        TuneOptions,
        TunePlan,
        TuneResult,
        plan_tuning,
        tune_models,
    )

try:
    Path.home()
except RuntimeError:
    # Of a user without a home folder, TVM asks for it nevertheless when it is imported.
    os.environ["HOME"] = "/nonexistent"

__all__ = [
    "Artifact",
    "BenchResult",
    "Evaluation",
    "ModelOptions",
    "Preprocessing",
    "ProfileResult",
    "PruneOptions",
    "PruneResult",
    "QuantizeOptions",
    "QuantizeResult",
    "ReportResult",
    "TuneOptions",
    "TunePlan",
    "TuneResult",
    "VerifyResult",
    "bench_artifact",
    "compile_model",
    "evaluate_model",
    "list_models",
    "list_targets",
    "plan_tuning",
    "profile_artifact",
    "prune_model",
    "quantize_model",
    "sweep_threads",
    "tune_models",
    "verify_artifact",
    "write_report",
]

_MODULES = {
    "analysis.bench": ("BenchResult", "bench_artifact", "sweep_threads"),
    "analysis.profile": ("ProfileResult", "profile_artifact"),
    "analysis.verify": ("VerifyResult", "verify_artifact"),
    "artifact": ("Artifact", "compile_model"),
    "compress.evaluate": ("Evaluation", "evaluate_model"),
    "compress.pictures": ("Preprocessing",),
    "compress.prune": ("PruneOptions", "PruneResult", "prune_model"),
    "compress.quantize": ("QuantizeOptions", "QuantizeResult", "quantize_model"),
    "listing": ("list_models", "list_targets"),
    "models.source": ("ModelOptions",),
    "report.write_report": ("ReportResult", "write_report"),
    "tuning.session": ("TuneOptions", "TunePlan", "TuneResult", "plan_tuning", "tune_models"),
}


def __getattr__(name: str) -> Any:
    """Import the compiler only when it is asked for, so that `--help` is quick."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
