// The OpenCL devices of this machine: what they are, their memory and their command queues.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api.h"

namespace opencl {

// The properties of a device.
struct DeviceInfo {
  Platform platform;
  DeviceId id;
  std::string platform_name, platform_version, name, driver, version, extensions;
  Flags type;
  uint32_t compute_units, clock_mhz;
  uint64_t memory_bytes, local_memory_bytes, cache_bytes;
  size_t work_group_size, work_item_sizes[3];
  bool float16, unified_memory, compiler;

  std::string TypeName() const;
};

// A device with its context and its in-order command queue, which all threads share.
class Device {
 public:
  explicit Device(const DeviceInfo& info);
  Device(const Device&) = delete;

  const DeviceInfo info;

  Context context() const { return context_; }

  Memory Allocate(size_t bytes);
  void Free(Memory memory);

  // Memory from a pool, for the duration of a few commands.
  Memory AllocateWorkspace(size_t bytes);
  void FreeWorkspace(Memory memory);

  // These return when the host's memory may be reused.
  void Write(const void* from, Memory to, size_t offset, size_t bytes);
  void Read(Memory from, size_t offset, void* to, size_t bytes);
  void Copy(Memory from, size_t from_offset, Memory to, size_t to_offset, size_t bytes);

  void Launch(Kernel kernel, uint32_t dimensions, const size_t* global, const size_t* local);
  void Finish();

  // Between these two, the device records the times of its kernels. They may be nested.
  void StartProfiling();
  void StopProfiling();
  // The number of kernels launched since the outermost StartProfiling.
  size_t ProfiledKernels();
  // The time in nanoseconds of the kernels between two such numbers; 0 if the driver does not
  // report it.
  int64_t KernelNanoseconds(size_t begin, size_t end);

 private:
  Queue NewQueue(Flags properties);
  void ReleasePool();

  Context context_;
  Queue plain_, profiling_ = nullptr, queue_;

  // Held while a command is enqueued, so that it goes into the right one of the two queues.
  std::mutex queue_mutex_;
  int profilers_ = 0;
  std::vector<Event> events_;

  std::mutex pool_mutex_;
  std::multimap<size_t, Memory> pool_;
  std::map<Memory, size_t> workspaces_;
};

// This machine's devices by number, GPUs first, restricted to those that the variable
// MOBILENET_TVM_OPENCL_DEVICE selects. Throws Error if there are none.
const std::vector<DeviceInfo>& DeviceInfos();

// Returns a device, opened on the first call.
Device& GetDevice(int number);

}  // namespace opencl
