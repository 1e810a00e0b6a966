// The part of OpenCL 1.2 that this plug-in uses, after the Khronos specification of the API.
//
// Boards have an OpenCL driver but seldom OpenCL's headers, and a library that is linked against
// libOpenCL cannot be loaded without it. So everything is declared here and resolved at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace opencl {

using Platform = struct PlatformObject*;
using DeviceId = struct DeviceObject*;
using Context = struct ContextObject*;
using Queue = struct QueueObject*;
using Memory = struct MemoryObject*;
using Program = struct ProgramObject*;
using Kernel = struct KernelObject*;
using Event = struct EventObject*;

using Code = int32_t;       // cl_int, where it is the status of a call
using Flags = uint64_t;     // cl_bitfield
using Name = uint32_t;      // cl_uint, where it selects a property to query
using Property = intptr_t;  // cl_context_properties

constexpr Code kSuccess = 0;
constexpr Code kDeviceNotFound = -1;
constexpr Code kAllocationFailure = -4;
constexpr Code kOutOfResources = -5;
constexpr Code kOutOfHostMemory = -6;
constexpr Code kPlatformNotFound = -1001;

constexpr uint32_t kFalse = 0, kTrue = 1;
constexpr Flags kReadWrite = 1 << 0;
constexpr Flags kProfilingEnable = 1 << 1;
constexpr Flags kTypeCpu = 1 << 1, kTypeGpu = 1 << 2, kTypeAccelerator = 1 << 3;
constexpr Flags kTypeAll = 0xFFFFFFFF;
constexpr Property kContextPlatform = 0x1084;

constexpr Name kPlatformVersion = 0x0901, kPlatformName = 0x0902;
constexpr Name kDeviceType = 0x1000, kMaxComputeUnits = 0x1002, kMaxWorkGroupSize = 0x1004,
               kMaxWorkItemSizes = 0x1005, kMaxClockFrequency = 0x100C, kGlobalCacheSize = 0x101E,
               kGlobalMemorySize = 0x101F, kLocalMemorySize = 0x1023, kCompilerAvailable = 0x1028,
               kDeviceName = 0x102B, kDriverVersion = 0x102D, kDeviceVersion = 0x102F,
               kExtensions = 0x1030, kHostUnifiedMemory = 0x1035;
constexpr Name kBinarySizes = 0x1165, kBinaries = 0x1166, kBuildLog = 0x1183;
constexpr Name kCommandStart = 0x1282, kCommandEnd = 0x1283;

// An error with a message of one line, which includes OpenCL's name for its code, if it has one.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, Code code = kSuccess)
      : std::runtime_error(message), code(code) {}
  const Code code;

  bool OutOfMemory() const {
    return code == kAllocationFailure || code == kOutOfResources || code == kOutOfHostMemory;
  }
};

// OpenCL's entry points.
struct Api {
  Code (*GetPlatformIDs)(uint32_t, Platform*, uint32_t*);
  Code (*GetPlatformInfo)(Platform, Name, size_t, void*, size_t*);
  Code (*GetDeviceIDs)(Platform, Flags, uint32_t, DeviceId*, uint32_t*);
  Code (*GetDeviceInfo)(DeviceId, Name, size_t, void*, size_t*);
  Context (*CreateContext)(const Property*, uint32_t, const DeviceId*,
                           void (*)(const char*, const void*, size_t, void*), void*, Code*);
  Code (*ReleaseContext)(Context);
  Queue (*CreateCommandQueue)(Context, DeviceId, Flags, Code*);
  Memory (*CreateBuffer)(Context, Flags, size_t, void*, Code*);
  Code (*ReleaseMemObject)(Memory);
  Code (*EnqueueReadBuffer)(Queue, Memory, uint32_t, size_t, size_t, void*, uint32_t, const Event*,
                            Event*);
  Code (*EnqueueWriteBuffer)(Queue, Memory, uint32_t, size_t, size_t, const void*, uint32_t,
                             const Event*, Event*);
  Code (*EnqueueCopyBuffer)(Queue, Memory, Memory, size_t, size_t, size_t, uint32_t, const Event*,
                            Event*);
  Code (*Finish)(Queue);
  Program (*CreateProgramWithSource)(Context, uint32_t, const char**, const size_t*, Code*);
  Program (*CreateProgramWithBinary)(Context, uint32_t, const DeviceId*, const size_t*,
                                     const unsigned char**, Code*, Code*);
  Code (*BuildProgram)(Program, uint32_t, const DeviceId*, const char*, void (*)(Program, void*),
                       void*);
  Code (*GetProgramBuildInfo)(Program, DeviceId, Name, size_t, void*, size_t*);
  Code (*GetProgramInfo)(Program, Name, size_t, void*, size_t*);
  Code (*ReleaseProgram)(Program);
  Kernel (*CreateKernel)(Program, const char*, Code*);
  Code (*ReleaseKernel)(Kernel);
  Code (*SetKernelArg)(Kernel, uint32_t, size_t, const void*);
  Code (*EnqueueNDRangeKernel)(Queue, Kernel, uint32_t, const size_t*, const size_t*, const size_t*,
                               uint32_t, const Event*, Event*);
  Code (*GetEventProfilingInfo)(Event, Name, size_t, void*, size_t*);
  Code (*ReleaseEvent)(Event);
};

// Returns OpenCL's entry points, loaded on the first call. Throws Error if OpenCL is missing.
const Api& Cl();

// Returns OpenCL's name for a code, such as "CL_OUT_OF_RESOURCES".
std::string CodeName(Code code);

// Throws Error unless a call succeeded; `call` describes it.
void Check(Code code, const std::string& call);

}  // namespace opencl
