"""The emulation of CUDA itself: barriers hold threads, and what a GPU would not do is an error."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from cuda_on_cpu import _compiled

pytestmark = pytest.mark.usefixtures("gcc")

SIZE = 96


def run(body: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Run a kernel of two blocks on an array of numbers from 0."""
    source = f'extern "C" __global__ void __launch_bounds__(48) one(float* x) {{ {body} }}'
    array = np.arange(SIZE, dtype=np.float32)
    module = _compiled(source, {"one": ["blockIdx.x", "threadIdx.x"]})
    module["one"](ctypes.c_void_p(array.ctypes.data), 2, SIZE // 2)
    return array


REVERSE = """
__shared__ alignas(64) float copy[48];
int i = threadIdx.x;
copy[i] = x[blockIdx.x * 48 + i];
BARRIER
x[blockIdx.x * 48 + i] = copy[47 - i];
"""


def test_a_barrier_holds_a_block() -> None:
    expected = np.arange(SIZE).reshape(2, -1)[:, ::-1].ravel()
    np.testing.assert_array_equal(run(REVERSE.replace("BARRIER", "__syncthreads();")), expected)


@pytest.mark.parametrize("barrier", ["", "__syncwarp();"])
def test_a_missing_barrier_shows(barrier: str) -> None:
    expected = np.arange(SIZE).reshape(2, -1)[:, ::-1].ravel()
    assert not np.array_equal(run(REVERSE.replace("BARRIER", barrier)), expected)


@pytest.mark.parametrize(("groups", "arrived"), [(0, 2), (1, 1), (2, 0)])
def test_copies_arrive_when_they_are_waited_for(groups: int, arrived: int) -> None:
    body = """
    __shared__ alignas(64) float copy[8];
    if (threadIdx.x || blockIdx.x) return;
    for (int i = 0; i < 8; ++i) copy[i] = -1;
    for (int i = 0; i < 2; ++i) {
      float *dst_p = copy + 4 * i, *src_p = x + 4 * i;
      asm volatile("cp.async.cg.shared.global [%0], [%1], %2;"
        :: "r"(dst_addr), "l"(src_p), "n"(16));
      asm volatile("cp.async.commit_group;" :  : );
    }
    asm volatile("cp.async.wait_group GROUPS;" :  :  : "memory");
    for (int i = 0; i < 8; ++i) x[i] = copy[i];
    """
    expected = [*range(4 * arrived), *[-1] * (8 - 4 * arrived)]
    np.testing.assert_array_equal(run(body.replace("GROUPS", str(groups)))[:8], expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 40) __syncthreads();", "barrier"),
        ("if (threadIdx.x < 40) __syncwarp();", "barrier"),
        ("*(float4*)(x + 4 * threadIdx.x + 1) = make_float4(1, 2, 3, 4);", "alignment"),
        ("float y[4]; y[threadIdx.x] = *x; *x = y[threadIdx.x & 3];", "beyond an array"),
        (
            "__shared__ float y[16]; *(float4*)(y + 4 * threadIdx.x) = *(float4*)x; *x = y[5];",
            "beyond an array",
        ),
    ],
)
def test_what_a_gpu_would_not_do_is_an_error(body: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(body)
