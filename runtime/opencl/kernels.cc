// Compiles kernels.
#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "cache.h"

namespace opencl {
namespace {

constexpr const char* kOptions = "-cl-std=CL1.2";

std::string Key(const DeviceInfo& info, const std::vector<KernelSource>& sources) {
  std::string key = info.platform_version + '\n' + info.name + '\n' + info.version + '\n' +
                    info.driver + '\n' + kOptions + '\n';
  for (const KernelSource& source : sources) key += source.source;
  return key;
}

// Returns the first line of a compiler's log that reports an error.
std::string FirstError(const std::string& log) {
  size_t begin = log.find("error");
  if (begin == std::string::npos) begin = 0;
  begin = begin ? log.rfind('\n', begin) + 1 : 0;
  return log.substr(begin, log.find('\n', begin) - begin);
}

std::string Log(Program program, DeviceId device) {
  size_t size = 0;
  if (Cl().GetProgramBuildInfo(program, device, kBuildLog, 0, nullptr, &size)) return "";
  std::string log(size, '\0');
  if (Cl().GetProgramBuildInfo(program, device, kBuildLog, size, log.data(), nullptr)) return "";
  return log.c_str();
}

std::string Binary(Program program) {
  size_t size = 0;
  if (Cl().GetProgramInfo(program, kBinarySizes, sizeof(size), &size, nullptr)) return "";
  std::string binary(size, '\0');
  char* data = binary.data();
  if (Cl().GetProgramInfo(program, kBinaries, sizeof(data), &data, nullptr)) return "";
  return binary;
}

// Calls a function for each index below `count`, on all cores; rethrows an exception of one.
template <typename Function>
void InParallel(size_t count, Function function) {
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&] {
    for (size_t index; (index = next++) < count;) {
      try {
        function(index);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex);
        failure = std::current_exception();
        next = count;
      }
    }
  };
  std::vector<std::thread> helpers;
  const size_t cores = std::max(1u, std::thread::hardware_concurrency());
  for (size_t index = 1; index < std::min(cores, count); ++index) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

Kernels::Kernels(Device& device, const std::vector<KernelSource>& sources, const std::string& cache)
    : device_(device), entries_(sources.size()) {
  const CacheFile file(cache, Key(device.info, sources));
  const std::optional<Binaries> kept = file.Load();
  std::atomic<bool> compiled{false};
  try {
    InParallel(sources.size(), [&](size_t index) {
      const KernelSource& source = sources[index];
      if (kept) {
        if (const auto found = kept->find(source.name); found != kept->end()) {
          try {
            return Build(entries_[index], source, &found->second);
          } catch (const Error&) {
            // The driver rejects its own earlier binary, so compile again.
          }
        }
      }
      compiled = true;
      Build(entries_[index], source, nullptr);
    });
  } catch (...) {
    Release();
    throw;
  }
  if (!compiled) return;
  Binaries binaries;
  for (size_t index = 0; index < sources.size(); ++index) {
    std::string binary = Binary(entries_[index].program);
    if (!binary.empty()) binaries.emplace(sources[index].name, std::move(binary));
  }
  file.Store(binaries);
}

Kernels::~Kernels() { Release(); }

void Kernels::Build(Entry& entry, const KernelSource& source, const std::string* binary) {
  const DeviceInfo& info = device_.info;
  Code code;
  Program program;
  if (binary) {
    const auto* data = reinterpret_cast<const unsigned char*>(binary->data());
    const size_t size = binary->size();
    Code status = kSuccess;
    program =
        Cl().CreateProgramWithBinary(device_.context(), 1, &info.id, &size, &data, &status, &code);
    if (code == kSuccess) code = status;
  } else {
    if (!info.float16 && source.source.find("cl_khr_fp16") != std::string::npos) {
      throw Error("the kernels use float16, which " + info.name +
                  " lacks (cl_khr_fp16); compile the model with --dtype float32");
    }
    if (!info.compiler) throw Error(info.name + " has no compiler for OpenCL C");
    const char* text = source.source.c_str();
    const size_t size = source.source.size();
    program = Cl().CreateProgramWithSource(device_.context(), 1, &text, &size, &code);
  }
  Check(code, "program of " + source.name);
  code = Cl().BuildProgram(program, 1, &info.id, kOptions, nullptr, nullptr);
  if (code == kSuccess) {
    entry.kernel = Cl().CreateKernel(program, source.name.c_str(), &code);
  }
  if (code != kSuccess) {
    const std::string reason = FirstError(Log(program, info.id));
    Cl().ReleaseProgram(program);
    throw Error(info.name + " does not compile " + source.name + ": " + CodeName(code) +
                    (reason.empty() ? "" : ", " + reason),
                code);
  }
  entry.program = program;
}

void Kernels::Release() {
  for (Entry& entry : entries_) {
    if (entry.kernel) Cl().ReleaseKernel(entry.kernel);
    if (entry.program) Cl().ReleaseProgram(entry.program);
  }
}

}  // namespace opencl
