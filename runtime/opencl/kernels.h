// A module's kernels on one device: compiled from source, or taken from the cache.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "api.h"
#include "device.h"

namespace opencl {

struct KernelSource {
  std::string name, source;
};

class Kernels {
 public:
  // Compiles those that the folder's cache lacks, on all cores. Throws Error where the device
  // refuses one.
  Kernels(Device& device, const std::vector<KernelSource>& sources, const std::string& cache);
  Kernels(const Kernels&) = delete;
  ~Kernels();

  // Runs kernel `index` with arguments: `set` is given the kernel to set them on. Any thread may.
  template <typename Set>
  void Launch(size_t index, Set set, uint32_t dimensions, const size_t* global,
              const size_t* local) {
    Entry& entry = entries_[index];
    // A kernel's arguments are part of it until the launch has copied them.
    std::lock_guard<std::mutex> lock(entry.mutex);
    set(entry.kernel);
    device_.Launch(entry.kernel, dimensions, global, local);
  }

 private:
  struct Entry {
    Program program = nullptr;
    Kernel kernel = nullptr;
    std::mutex mutex;
  };

  void Build(Entry& entry, const KernelSource& source, const std::string* binary);
  void Release();

  Device& device_;
  std::vector<Entry> entries_;
};

}  // namespace opencl
