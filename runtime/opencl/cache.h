// Compiled programs on disk, so that loading a model again does not compile its kernels again.
#pragma once

#include <map>
#include <optional>
#include <string>

namespace opencl {

// Binaries by the name of their kernel.
using Binaries = std::map<std::string, std::string>;

// A file in the cache.
class CacheFile {
 public:
  // `key` is everything that the binaries depend on. If `folder` is empty, nothing is stored.
  CacheFile(const std::string& folder, const std::string& key);

  // Returns nothing if the file is missing, damaged or of another key.
  std::optional<Binaries> Load() const;

  // A failure is ignored: the kernels are compiled again next time.
  void Store(const Binaries& binaries) const;

 private:
  const std::string key_;
  std::string folder_, path_;
};

}  // namespace opencl
