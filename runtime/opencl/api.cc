// Loads OpenCL and names its errors.
#include "api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

namespace opencl {
namespace {

// The usual loader first, then the libraries of Android and of Arm's drivers for Linux.
constexpr const char* kLibraries[] = {
    "libOpenCL.so.1",
    "libOpenCL.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "libmali.so.1",
    "libmali.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/vendor/lib64/egl/libGLES_mali.so",
};

constexpr const char* kVariable = "MOBILENET_TVM_OPENCL_LIBRARY";

void* OpenLibrary() {
  if (const char* given = std::getenv(kVariable); given && *given) {
    if (void* library = dlopen(given, RTLD_NOW | RTLD_LOCAL)) return library;
    throw Error(std::string("cannot open the OpenCL library that ") + kVariable +
                " names: " + dlerror());
  }
  for (const char* name : kLibraries) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  }
  throw Error(
      std::string("this machine has no OpenCL library (libOpenCL.so.1); install the GPU's driver "
                  "and an OpenCL loader (Debian: ocl-icd-libopencl1), or name the library in ") +
      kVariable);
}

class Symbols {
 public:
  template <typename Function>
  void Find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(library_, name));
    if (!function) {
      throw Error(std::string("the OpenCL library lacks ") + name +
                  ", which is part of OpenCL 1.2; update the GPU's driver");
    }
  }

 private:
  void* library_ = OpenLibrary();
};

Api Load() {
  const Symbols symbols;
  Api api;
#define FIND(name) symbols.Find("cl" #name, api.name)
  FIND(GetPlatformIDs);
  FIND(GetPlatformInfo);
  FIND(GetDeviceIDs);
  FIND(GetDeviceInfo);
  FIND(CreateContext);
  FIND(ReleaseContext);
  FIND(CreateCommandQueue);
  FIND(CreateBuffer);
  FIND(ReleaseMemObject);
  FIND(EnqueueReadBuffer);
  FIND(EnqueueWriteBuffer);
  FIND(EnqueueCopyBuffer);
  FIND(Finish);
  FIND(CreateProgramWithSource);
  FIND(CreateProgramWithBinary);
  FIND(BuildProgram);
  FIND(GetProgramBuildInfo);
  FIND(GetProgramInfo);
  FIND(ReleaseProgram);
  FIND(CreateKernel);
  FIND(ReleaseKernel);
  FIND(SetKernelArg);
  FIND(EnqueueNDRangeKernel);
  FIND(GetEventProfilingInfo);
  FIND(ReleaseEvent);
#undef FIND
  return api;
}

}  // namespace

const Api& Cl() {
  // If this throws, the next call tries again.
  static const Api api = Load();
  return api;
}

std::string CodeName(Code code) {
  switch (code) {
#define NAME(name, value) \
  case value:             \
    return "CL_" #name
    NAME(SUCCESS, 0);
    NAME(DEVICE_NOT_FOUND, -1);
    NAME(DEVICE_NOT_AVAILABLE, -2);
    NAME(COMPILER_NOT_AVAILABLE, -3);
    NAME(MEM_OBJECT_ALLOCATION_FAILURE, -4);
    NAME(OUT_OF_RESOURCES, -5);
    NAME(OUT_OF_HOST_MEMORY, -6);
    NAME(PROFILING_INFO_NOT_AVAILABLE, -7);
    NAME(MEM_COPY_OVERLAP, -8);
    NAME(BUILD_PROGRAM_FAILURE, -11);
    NAME(MAP_FAILURE, -12);
    NAME(MISALIGNED_SUB_BUFFER_OFFSET, -13);
    NAME(EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, -14);
    NAME(COMPILE_PROGRAM_FAILURE, -15);
    NAME(LINKER_NOT_AVAILABLE, -16);
    NAME(LINK_PROGRAM_FAILURE, -17);
    NAME(KERNEL_ARG_INFO_NOT_AVAILABLE, -19);
    NAME(INVALID_VALUE, -30);
    NAME(INVALID_DEVICE_TYPE, -31);
    NAME(INVALID_PLATFORM, -32);
    NAME(INVALID_DEVICE, -33);
    NAME(INVALID_CONTEXT, -34);
    NAME(INVALID_QUEUE_PROPERTIES, -35);
    NAME(INVALID_COMMAND_QUEUE, -36);
    NAME(INVALID_HOST_PTR, -37);
    NAME(INVALID_MEM_OBJECT, -38);
    NAME(INVALID_BINARY, -42);
    NAME(INVALID_BUILD_OPTIONS, -43);
    NAME(INVALID_PROGRAM, -44);
    NAME(INVALID_PROGRAM_EXECUTABLE, -45);
    NAME(INVALID_KERNEL_NAME, -46);
    NAME(INVALID_KERNEL_DEFINITION, -47);
    NAME(INVALID_KERNEL, -48);
    NAME(INVALID_ARG_INDEX, -49);
    NAME(INVALID_ARG_VALUE, -50);
    NAME(INVALID_ARG_SIZE, -51);
    NAME(INVALID_KERNEL_ARGS, -52);
    NAME(INVALID_WORK_DIMENSION, -53);
    NAME(INVALID_WORK_GROUP_SIZE, -54);
    NAME(INVALID_WORK_ITEM_SIZE, -55);
    NAME(INVALID_GLOBAL_OFFSET, -56);
    NAME(INVALID_EVENT_WAIT_LIST, -57);
    NAME(INVALID_EVENT, -58);
    NAME(INVALID_OPERATION, -59);
    NAME(INVALID_BUFFER_SIZE, -61);
    NAME(INVALID_GLOBAL_WORK_SIZE, -63);
    NAME(INVALID_PROPERTY, -64);
    NAME(PLATFORM_NOT_FOUND_KHR, -1001);
#undef NAME
    default:
      return "OpenCL's error " + std::to_string(code);
  }
}

void Check(Code code, const std::string& call) {
  if (code != kSuccess) throw Error(call + " failed: " + CodeName(code), code);
}

}  // namespace opencl
