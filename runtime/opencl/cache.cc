// Reads and writes files of compiled programs.
//
// A file is a magic word, a checksum of all that follows, the key, and a name and a binary for each
// kernel. Drivers may crash on damaged binaries, so they are checked first.
#include "cache.h"

#include <stdlib.h>
#include <unistd.h>
#include <utime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

namespace opencl {
namespace {

// Its last character is the version of the file format.
constexpr char kMagic[] = "mntvmcl1";
constexpr size_t kMagicSize = sizeof(kMagic) - 1;

// FNV-1a.
uint64_t Hash(const char* data, size_t size) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t index = 0; index < size; ++index) {
    hash = (hash ^ static_cast<unsigned char>(data[index])) * 0x100000001b3;
  }
  return hash;
}

void Append(std::string& to, uint64_t number) {
  to.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

void Append(std::string& to, const std::string& text) {
  Append(to, text.size());
  to += text;
}

class Reader {
 public:
  explicit Reader(const std::string& data) : rest_(data.data()), end_(rest_ + data.size()) {}

  bool Number(uint64_t& number) {
    if (static_cast<size_t>(end_ - rest_) < sizeof(number)) return false;
    std::memcpy(&number, rest_, sizeof(number));
    rest_ += sizeof(number);
    return true;
  }

  bool Text(std::string& text) {
    uint64_t size;
    if (!Number(size) || size > static_cast<uint64_t>(end_ - rest_)) return false;
    text.assign(rest_, size);
    rest_ += size;
    return true;
  }

 private:
  const char* rest_;
  const char* end_;
};

}  // namespace

CacheFile::CacheFile(const std::string& folder, const std::string& key)
    : key_(key), folder_(folder) {
  char name[32];
  std::snprintf(name, sizeof(name), "%016llx.bin",
                static_cast<unsigned long long>(Hash(key.data(), key.size())));
  path_ = folder + "/" + name;
}

std::optional<Binaries> CacheFile::Load() const {
  if (folder_.empty()) return std::nullopt;
  std::ifstream file(path_, std::ios::binary);
  if (!file) return std::nullopt;
  const std::string data{std::istreambuf_iterator<char>(file), {}};
  const size_t head = kMagicSize + sizeof(uint64_t);
  if (data.size() < head || data.compare(0, kMagicSize, kMagic) != 0) return std::nullopt;
  uint64_t checksum;
  std::memcpy(&checksum, data.data() + kMagicSize, sizeof(checksum));
  const std::string body = data.substr(head);
  if (checksum != Hash(body.data(), body.size())) return std::nullopt;

  Reader reader(body);
  std::string key;
  uint64_t count;
  if (!reader.Text(key) || key != key_ || !reader.Number(count)) return std::nullopt;
  Binaries binaries;
  for (uint64_t index = 0; index < count; ++index) {
    std::string name, binary;
    if (!reader.Text(name) || !reader.Text(binary)) return std::nullopt;
    binaries.emplace(std::move(name), std::move(binary));
  }
  // When the cache is pruned, the least recently used files are removed first.
  utime(path_.c_str(), nullptr);
  return binaries;
}

void CacheFile::Store(const Binaries& binaries) const {
  if (folder_.empty()) return;
  std::string body;
  Append(body, key_);
  Append(body, binaries.size());
  for (const auto& [name, binary] : binaries) {
    Append(body, name);
    Append(body, binary);
  }
  std::string head = kMagic;
  Append(head, Hash(body.data(), body.size()));

  // Renamed when complete, because other processes may read it.
  std::string scratch = folder_ + "/.XXXXXX";
  const int descriptor = mkstemp(scratch.data());
  if (descriptor < 0) return;
  std::FILE* file = fdopen(descriptor, "wb");
  bool written = std::fwrite(head.data(), 1, head.size(), file) == head.size() &&
                 std::fwrite(body.data(), 1, body.size(), file) == body.size();
  written = std::fclose(file) == 0 && written;
  if (!written || std::rename(scratch.c_str(), path_.c_str()) != 0) unlink(scratch.c_str());
}

}  // namespace opencl
