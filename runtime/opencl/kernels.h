// A module's kernels on one device, compiled from source or loaded from the cache.
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
  // Compiles the kernels that the cache in a folder lacks, on all cores. Throws Error if the device
  // rejects one.
  Kernels(Device& device, const std::vector<KernelSource>& sources, const std::string& cache);
  Kernels(const Kernels&) = delete;
  ~Kernels();

  // Launches kernel `index`, whose arguments `set` sets. Any thread may call it.
  template <typename Set>
  void Launch(size_t index, Set set, uint32_t dimensions, const size_t* global,
              const size_t* local) {
    Entry& entry = entries_[index];
    // A kernel object holds its arguments until the launch has copied them.
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
