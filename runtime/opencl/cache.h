// Compiled programs on disk, so that a model's second start does not compile its kernels again.
#pragma once

#include <map>
#include <optional>
#include <string>

namespace opencl {

// By the kernel's name.
using Binaries = std::map<std::string, std::string>;

// One file of the cache.
class CacheFile {
 public:
  // `key` is all that the binaries depend on. Without a folder nothing is kept.
  CacheFile(const std::string& folder, const std::string& key);

  // Returns nothing where the file is missing, damaged or of another key.
  std::optional<Binaries> Load() const;

  // A failure is no error: the next start compiles again.
  void Store(const Binaries& binaries) const;

 private:
  const std::string key_;
  std::string folder_, path_;
};

}  // namespace opencl
