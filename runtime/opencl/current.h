// The device of the calling thread, which TVM's generated code sets before it calls kernels.
#pragma once

namespace opencl {

int& CurrentDevice();

}  // namespace opencl
