"""Networks that once failed: each is right now, or refused by one line that says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import ROOT

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.verify import random_inputs, verify_artifact
from mobilenet_tvm.runtime import load
from mobilenet_tvm.targets.errors import UserError

FAILURES = ROOT.parent / "shared" / "failures"
NETWORKS = sorted([*FAILURES.glob("imports/*.onnx"), *FAILURES.glob("kinds/*.onnx")])

#: Refused, with a part of the line: shapes that depend on the data, operators and types that no
#: MobileNet has, files that are no valid models.
REFUSED = {
    "05_negpads_maxpool": "not a valid ONNX model",
    "17_deform": "DeformConv cannot be compiled",
    "17_gru_tail": "GRU cannot be compiled",
    "17_topk_unsorted": "TopK cannot be compiled .sorted=0",
    "18_bfloat16": "has the type bfloat16",
    "18_if_runtime": "If cannot be compiled",
    "18_ms_domain_fusedconv": "FusedConv cannot be compiled .domain com.microsoft.",
    "18_passthrough_only": "the network computes nothing",
    "18_same_name_twice_output": "2 outputs have the name",
    "18_scan": "Scan cannot be compiled",
    "19_shape_as_output": "the network computes nothing",
    "20_3d_conv1d": "no image input",
    "20_5d": "no image input",
    "20_identity_only": "the network computes nothing",
    "21_dynq_convinteger": "ConvInteger cannot be compiled",
    "21_f8": "has the type float8e4m3fn",
    "07_cast_float8": "has the type float8e4m3fn",
    "08_same_output_twice": "2 outputs have the name",
}
#: What ONNX Runtime does not run: types, indices that are out of bounds.
NO_REFERENCE = {
    "09_gather_out_of_range_crash",
    "21_double",
    "40_gather_oob",
}
#: A step of a quantised value, where ONNX Runtime rounds a tie otherwise.
ONE_STEP = {"21_qlinearconv": 0.0041, "21_resize_lin": 0.011}


@pytest.mark.full
@pytest.mark.skipif(not NETWORKS, reason=f"needs {FAILURES}")
@pytest.mark.parametrize("file", NETWORKS, ids=lambda path: path.stem)
def test_right_or_refused(file: Path, tmp_path: Path) -> None:
    reason = REFUSED.get(file.stem)
    if reason is not None:
        with pytest.raises(UserError, match=reason) as refused:
            compile_model(file, "x86", tmp_path / "model.so")
        assert "\n" not in str(refused.value)
        return
    artifact = compile_model(file, "x86", tmp_path / "model.so")
    if file.stem in NO_REFERENCE:
        model = load(artifact.path)
        model(*random_inputs(model, 0).values())
        return
    tolerance = ONE_STEP.get(file.stem)
    result = verify_artifact(artifact.path, file, inputs=2, tolerance=tolerance)
    assert result.agrees, f"worst error {result.worst_error}, allowed {result.tolerance}"
