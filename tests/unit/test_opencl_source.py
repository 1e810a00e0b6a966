"""OpenCL C is shortened, and nothing that is used goes."""

from mobilenet_tvm.compile.codegen.opencl_source import shorten

SOURCE = """#pragma head
__kernel void one_kernel(__global float* restrict x_ptr);
__kernel void two_kernel(__global float* restrict x_ptr);
__kernel void one_kernel(__global float* restrict x_ptr) {
  int cse_v1 = ((convert_int(get_group_id(0))) * 64);
  int cse_v2 = ((convert_int(get_local_id(0))) * 2);
  x_ptr[(((convert_int(get_group_id(0))) * 64) + (convert_int(get_local_id(0))))] = cse_v2;
}
"""


def test_places_are_variables_and_what_nobody_reads_is_gone() -> None:
    assert (
        shorten(SOURCE)
        == """#pragma head
__kernel void one_kernel(__global float* restrict x_ptr) {
  const int block = get_group_id(0), thread = get_local_id(0);
  int cse_v2 = (thread * 2);
  x_ptr[((block * 64) + thread)] = cse_v2;
}
"""
    )


def test_no_kernel_has_a_parameter_that_points_to_bool() -> None:
    source = "__kernel void k(__global bool* restrict x_ptr) {\n  bool y = x_ptr[0];\n}\n"
    shortened = shorten(source)
    assert "__global uchar* restrict x_ptr" in shortened
    assert "bool y = x_ptr[0];" in shortened
