// Which device the calling thread uses, as TVM's generated code sets it before it calls kernels.
#pragma once

namespace opencl {

int& CurrentDevice();

}  // namespace opencl
