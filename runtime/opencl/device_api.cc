// Makes OpenCL devices available to TVM's runtime: memory, copies, attributes and timers.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/device_api.h>

#include <chrono>
#include <string>

#include "current.h"
#include "device.h"

namespace tvm::runtime {

// As in tvm/runtime/timer.h, which cannot be included: the wheel lacks a header that it needs.
class TimerNode : public ffi::Object {
 public:
  virtual void Start() = 0;
  virtual void Stop() = 0;
  virtual int64_t SyncAndGetElapsedNanos() = 0;
  virtual ~TimerNode() {}

  static constexpr const bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO("runtime.TimerNode", TimerNode, ffi::Object);
};

}  // namespace tvm::runtime

namespace opencl {
namespace {

using tvm::runtime::DeviceAttrKind;

Memory AsMemory(const void* pointer) { return static_cast<Memory>(const_cast<void*>(pointer)); }

// TVM's device pointers are OpenCL's buffers.
class OpenClApi final : public tvm::runtime::DeviceAPI {
 public:
  void SetDevice(DLDevice device) final { CurrentDevice() = device.device_id; }

  void GetAttr(DLDevice device, DeviceAttrKind kind, tvm::ffi::Any* result) final {
    if (kind == tvm::runtime::kExist) {
      *result = Exists(device.device_id) ? 1 : 0;
      return;
    }
    const DeviceInfo& info = GetDevice(device.device_id).info;
    switch (kind) {
      case tvm::runtime::kMaxThreadsPerBlock:
        *result = static_cast<int64_t>(info.work_group_size);
        break;
      case tvm::runtime::kWarpSize:
        *result = 1;
        break;
      case tvm::runtime::kMaxSharedMemoryPerBlock:
        *result = static_cast<int64_t>(info.local_memory_bytes);
        break;
      case tvm::runtime::kComputeVersion:
        *result = tvm::ffi::String(info.version);
        break;
      case tvm::runtime::kDeviceName:
        *result = tvm::ffi::String(info.name);
        break;
      case tvm::runtime::kMaxClockRate:
        *result = static_cast<int64_t>(info.clock_mhz) * 1000;
        break;
      case tvm::runtime::kMultiProcessorCount:
        *result = static_cast<int64_t>(info.compute_units);
        break;
      case tvm::runtime::kMaxThreadDimensions: {
        const size_t* sizes = info.work_item_sizes;
        *result =
            tvm::ffi::String("[" + std::to_string(sizes[0]) + ", " + std::to_string(sizes[1]) +
                             ", " + std::to_string(sizes[2]) + "]");
        break;
      }
      case tvm::runtime::kDriverVersion:
        *result = tvm::ffi::String(info.driver);
        break;
      case tvm::runtime::kL2CacheSizeBytes:
        *result = static_cast<int64_t>(info.cache_bytes);
        break;
      case tvm::runtime::kTotalGlobalMemory:
        *result = static_cast<int64_t>(info.memory_bytes);
        break;
      default:
        // OpenCL does not report it; the result stays None.
        break;
    }
  }

  void* AllocDataSpace(DLDevice device, size_t bytes, size_t, DLDataType) final {
    return Allocated([&] { return GetDevice(device.device_id).Allocate(bytes); });
  }

  void FreeDataSpace(DLDevice device, void* pointer) final {
    GetDevice(device.device_id).Free(AsMemory(pointer));
  }

  void* AllocWorkspace(DLDevice device, size_t bytes, DLDataType) final {
    return Allocated([&] { return GetDevice(device.device_id).AllocateWorkspace(bytes); });
  }

  void FreeWorkspace(DLDevice device, void* pointer) final {
    GetDevice(device.device_id).FreeWorkspace(AsMemory(pointer));
  }

  void StreamSync(DLDevice device, TVMStreamHandle) final { GetDevice(device.device_id).Finish(); }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset,
                      size_t bytes, DLDevice from_device, DLDevice to_device, DLDataType,
                      TVMStreamHandle) final {
    const bool from_host = from_device.device_type != kDLOpenCL;
    const bool to_host = to_device.device_type != kDLOpenCL;
    if (from_host) {
      GetDevice(to_device.device_id)
          .Write(static_cast<const char*>(from) + from_offset, AsMemory(to), to_offset, bytes);
    } else if (to_host) {
      GetDevice(from_device.device_id)
          .Read(AsMemory(from), from_offset, static_cast<char*>(to) + to_offset, bytes);
    } else if (from_device.device_id == to_device.device_id) {
      GetDevice(to_device.device_id)
          .Copy(AsMemory(from), from_offset, AsMemory(to), to_offset, bytes);
    } else {
      // Two devices share no memory.
      std::string host(bytes, '\0');
      GetDevice(from_device.device_id).Read(AsMemory(from), from_offset, host.data(), bytes);
      GetDevice(to_device.device_id).Write(host.data(), AsMemory(to), to_offset, bytes);
    }
  }

 private:
  static bool Exists(int number) {
    try {
      return number >= 0 && static_cast<size_t>(number) < DeviceInfos().size();
    } catch (const Error&) {
      return false;
    }
  }

  template <typename Allocate>
  static void* Allocated(Allocate allocate) {
    try {
      return allocate();
    } catch (const Error& error) {
      // On errors of this type, TVM's pool releases what it does not need and tries again.
      if (error.OutOfMemory()) TVM_FFI_THROW(MemoryError) << error.what();
      throw;
    }
  }
};

// The time of the kernels on the device or, if the driver does not report it, the time from an
// empty queue to an empty queue.
class Timer final : public tvm::runtime::TimerNode {
 public:
  explicit Timer(Device& device) : device_(device) {}

  ~Timer() {
    try {
      End();
    } catch (const Error&) {
      // The next use of the device reports it.
    }
  }

  void Start() final {
    device_.StartProfiling();
    profiling_ = true;
    begin_ = device_.ProfiledKernels();
    start_ = std::chrono::steady_clock::now();
  }

  void Stop() final {
    end_ = device_.ProfiledKernels();
    device_.Finish();
    elapsed_ = std::chrono::steady_clock::now() - start_;
  }

  int64_t SyncAndGetElapsedNanos() final {
    const int64_t kernels = device_.KernelNanoseconds(begin_, end_);
    End();
    return kernels > 0 ? kernels : elapsed_.count();
  }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("mobilenet_tvm.OpenClTimer", Timer, tvm::runtime::TimerNode);

 private:
  void End() {
    if (!profiling_) return;
    profiling_ = false;
    device_.StopProfiling();
  }

  Device& device_;
  bool profiling_ = false;
  size_t begin_ = 0, end_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::chrono::nanoseconds elapsed_{0};
};

tvm::ffi::Array<tvm::ffi::Any> Describe() {
  tvm::ffi::Array<tvm::ffi::Any> described;
  for (const DeviceInfo& info : DeviceInfos()) {
    described.push_back(tvm::ffi::Map<tvm::ffi::String, tvm::ffi::Any>{
        {"platform", tvm::ffi::String(info.platform_name)},
        {"name", tvm::ffi::String(info.name)},
        {"type", tvm::ffi::String(info.TypeName())},
        {"driver", tvm::ffi::String(info.driver)},
        {"version", tvm::ffi::String(info.version)},
        {"compute_units", static_cast<int64_t>(info.compute_units)},
        {"memory_bytes", static_cast<int64_t>(info.memory_bytes)},
        {"float16", info.float16},
        {"unified_memory", info.unified_memory},
    });
  }
  return described;
}

}  // namespace

int& CurrentDevice() {
  static thread_local int number = 0;
  return number;
}

TVM_FFI_STATIC_INIT_BLOCK() {
  // Other builds of TVM may have their own OpenCL, and a name can be registered only once.
  if (tvm::ffi::Function::GetGlobal("device_api.opencl")) return;
  tvm::ffi::reflection::GlobalDef()
      .def("device_api.opencl",
           [] {
             // Never destroyed: TVM frees memory as long as the process lives.
             static tvm::runtime::DeviceAPI* api = new OpenClApi();
             return static_cast<void*>(api);
           })
      .def("runtime.timer.opencl",
           [](DLDevice device) {
             return tvm::ffi::ObjectRef(tvm::ffi::make_object<Timer>(GetDevice(device.device_id)));
           })
      .def("mobilenet_tvm.opencl.start_timer",
           [](int64_t number) {
             Device& device = GetDevice(static_cast<int>(number));
             device.StartProfiling();
             return static_cast<int64_t>(device.ProfiledKernels());
           })
      .def("mobilenet_tvm.opencl.stop_timer",
           [](int64_t number, int64_t begin) {
             Device& device = GetDevice(static_cast<int>(number));
             const int64_t kernels = device.KernelNanoseconds(begin, device.ProfiledKernels());
             device.StopProfiling();
             return kernels;
           })
      .def("mobilenet_tvm.opencl.devices", Describe)
      .def("mobilenet_tvm.opencl.tvm_version", [] { return tvm::ffi::String(TVM_VERSION); });
}

}  // namespace opencl
