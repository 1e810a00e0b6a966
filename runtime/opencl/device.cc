// Finds this machine's OpenCL devices, and enqueues their commands.
#include "device.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <tuple>

namespace opencl {
namespace {

constexpr const char* kVariable = "MOBILENET_TVM_OPENCL_DEVICE";

// Workspaces are rounded up to this many bytes, so that those of similar sizes are reused.
constexpr size_t kPage = 4096;

// Returns the text that `get(size, destination, needed size)` writes.
template <typename Get>
std::string Text(Get get, const std::string& what) {
  size_t size = 0;
  Check(get(0, nullptr, &size), what);
  std::string text(size, '\0');
  Check(get(size, text.data(), nullptr), what);
  // It ends with a null character, and some drivers pad it with blanks.
  while (!text.empty() && (text.back() == '\0' || text.back() == ' ')) text.pop_back();
  return text;
}

std::string PlatformText(Platform platform, Name name) {
  return Text(
      [=](size_t size, void* to, size_t* needed) {
        return Cl().GetPlatformInfo(platform, name, size, to, needed);
      },
      "clGetPlatformInfo");
}

std::string DeviceText(DeviceId id, Name name) {
  return Text([=](size_t size, void* to,
                  size_t* needed) { return Cl().GetDeviceInfo(id, name, size, to, needed); },
              "clGetDeviceInfo");
}

template <typename Value>
Value DeviceValue(DeviceId id, Name name) {
  Value value{};
  Check(Cl().GetDeviceInfo(id, name, sizeof(value), &value, nullptr), "clGetDeviceInfo");
  return value;
}

DeviceInfo Describe(Platform platform, DeviceId id) {
  DeviceInfo info;
  info.platform = platform;
  info.id = id;
  info.platform_name = PlatformText(platform, kPlatformName);
  info.platform_version = PlatformText(platform, kPlatformVersion);
  info.name = DeviceText(id, kDeviceName);
  info.driver = DeviceText(id, kDriverVersion);
  info.version = DeviceText(id, kDeviceVersion);
  info.extensions = DeviceText(id, kExtensions);
  info.type = DeviceValue<Flags>(id, kDeviceType);
  info.compute_units = DeviceValue<uint32_t>(id, kMaxComputeUnits);
  info.clock_mhz = DeviceValue<uint32_t>(id, kMaxClockFrequency);
  info.memory_bytes = DeviceValue<uint64_t>(id, kGlobalMemorySize);
  info.local_memory_bytes = DeviceValue<uint64_t>(id, kLocalMemorySize);
  info.cache_bytes = DeviceValue<uint64_t>(id, kGlobalCacheSize);
  info.work_group_size = DeviceValue<size_t>(id, kMaxWorkGroupSize);
  Check(Cl().GetDeviceInfo(id, kMaxWorkItemSizes, sizeof(info.work_item_sizes),
                           info.work_item_sizes, nullptr),
        "clGetDeviceInfo");
  info.float16 = (info.extensions + " ").find("cl_khr_fp16 ") != std::string::npos;
  // Since OpenCL 2.0, drivers need not support this query.
  uint32_t unified = kFalse;
  Cl().GetDeviceInfo(id, kHostUnifiedMemory, sizeof(unified), &unified, nullptr);
  info.unified_memory = unified == kTrue;
  info.compiler = DeviceValue<uint32_t>(id, kCompilerAvailable) == kTrue;
  return info;
}

std::vector<DeviceInfo> FindAll() {
  uint32_t count = 0;
  Code code = Cl().GetPlatformIDs(0, nullptr, &count);
  if (code != kPlatformNotFound) Check(code, "clGetPlatformIDs");
  if (code == kPlatformNotFound || count == 0) {
    throw Error(
        "OpenCL has no driver on this machine (no platform); install the GPU's driver, and check "
        "that /etc/OpenCL/vendors lists it");
  }
  std::vector<Platform> platforms(count);
  Check(Cl().GetPlatformIDs(count, platforms.data(), nullptr), "clGetPlatformIDs");

  std::vector<DeviceInfo> found;
  for (Platform platform : platforms) {
    uint32_t devices = 0;
    code = Cl().GetDeviceIDs(platform, kTypeAll, 0, nullptr, &devices);
    // A driver without a device does not hide those of other drivers.
    if (code != kSuccess || devices == 0) continue;
    std::vector<DeviceId> ids(devices);
    Check(Cl().GetDeviceIDs(platform, kTypeAll, devices, ids.data(), nullptr), "clGetDeviceIDs");
    for (DeviceId id : ids) found.push_back(Describe(platform, id));
  }
  if (found.empty()) {
    std::string names;
    for (Platform platform : platforms) {
      names += (names.empty() ? "" : ", ") + PlatformText(platform, kPlatformName);
    }
    throw Error("OpenCL finds no device (drivers: " + names +
                "); check that the GPU's kernel driver is loaded and that you may open its device "
                "file");
  }
  const auto rank = [](const DeviceInfo& info) {
    return info.type & kTypeGpu ? 0 : info.type & kTypeAccelerator ? 1 : 2;
  };
  std::stable_sort(found.begin(), found.end(),
                   [&](const DeviceInfo& a, const DeviceInfo& b) { return rank(a) < rank(b); });
  return found;
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return std::tolower(letter); });
  return text;
}

std::vector<DeviceInfo> FindAllowed() {
  std::vector<DeviceInfo> all = FindAll();
  const char* variable = std::getenv(kVariable);
  if (!variable || !*variable) return all;
  const std::string wanted = Lower(variable);
  const bool number = std::all_of(wanted.begin(), wanted.end(),
                                  [](unsigned char letter) { return std::isdigit(letter); });
  std::vector<DeviceInfo> allowed;
  std::string names;
  for (size_t index = 0; index < all.size(); ++index) {
    const DeviceInfo& info = all[index];
    const bool fits =
        number ? std::to_string(index) == wanted
               : Lower(info.platform_name + " " + info.name).find(wanted) != std::string::npos;
    if (fits) allowed.push_back(info);
    names += (index ? ", " : "") + std::to_string(index) + " " + info.name;
  }
  if (allowed.empty()) {
    throw Error(std::string("no OpenCL device matches '") + variable + "', to which " + kVariable +
                " is set; choose one of: " + names);
  }
  return allowed;
}

}  // namespace

std::string DeviceInfo::TypeName() const {
  if (type & kTypeGpu) return "GPU";
  if (type & kTypeAccelerator) return "accelerator";
  return type & kTypeCpu ? "CPU" : "other";
}

Device::Device(const DeviceInfo& info) : info(info) {
  const Property properties[] = {kContextPlatform, reinterpret_cast<Property>(info.platform), 0};
  Code code;
  context_ = Cl().CreateContext(properties, 1, &info.id, nullptr, nullptr, &code);
  Check(code, "clCreateContext");
  plain_ = queue_ = NewQueue(0);
}

Queue Device::NewQueue(Flags properties) {
  Code code;
  Queue queue = Cl().CreateCommandQueue(context_, info.id, properties, &code);
  Check(code, "clCreateCommandQueue");
  return queue;
}

Memory Device::Allocate(size_t bytes) {
  const auto attempt = [&](Code* code) {
    // OpenCL has no empty buffers.
    return Cl().CreateBuffer(context_, kReadWrite, std::max<size_t>(bytes, 1), nullptr, code);
  };
  Code code;
  Memory memory = attempt(&code);
  if (code != kSuccess) {
    ReleasePool();
    memory = attempt(&code);
  }
  Check(code, "memory on " + info.name + " (" + std::to_string(bytes) + " bytes)");
  return memory;
}

void Device::Free(Memory memory) {
  // Enqueued commands keep it alive until they have run.
  Check(Cl().ReleaseMemObject(memory), "clReleaseMemObject");
}

Memory Device::AllocateWorkspace(size_t bytes) {
  const size_t size = (std::max<size_t>(bytes, 1) + kPage - 1) / kPage * kPage;
  {
    std::lock_guard<std::mutex> lock(pool_mutex_);
    // The queue is in order, so the next user writes only after the last one has read.
    if (auto found = pool_.find(size); found != pool_.end()) {
      Memory memory = found->second;
      pool_.erase(found);
      workspaces_[memory] = size;
      return memory;
    }
  }
  Memory memory = Allocate(size);
  std::lock_guard<std::mutex> lock(pool_mutex_);
  workspaces_[memory] = size;
  return memory;
}

void Device::FreeWorkspace(Memory memory) {
  std::lock_guard<std::mutex> lock(pool_mutex_);
  auto found = workspaces_.find(memory);
  pool_.emplace(found->second, memory);
  workspaces_.erase(found);
}

void Device::ReleasePool() {
  std::lock_guard<std::mutex> lock(pool_mutex_);
  for (const auto& [size, memory] : pool_) Cl().ReleaseMemObject(memory);
  pool_.clear();
}

void Device::Write(const void* from, Memory to, size_t offset, size_t bytes) {
  if (bytes == 0) return;
  // Without the lock, so that other threads can enqueue commands meanwhile.
  Finish();
  std::lock_guard<std::mutex> lock(queue_mutex_);
  Check(Cl().EnqueueWriteBuffer(queue_, to, kTrue, offset, bytes, from, 0, nullptr, nullptr),
        "upload to " + info.name);
}

void Device::Read(Memory from, size_t offset, void* to, size_t bytes) {
  if (bytes == 0) return;
  Finish();
  std::lock_guard<std::mutex> lock(queue_mutex_);
  Check(Cl().EnqueueReadBuffer(queue_, from, kTrue, offset, bytes, to, 0, nullptr, nullptr),
        "download from " + info.name);
}

void Device::Copy(Memory from, size_t from_offset, Memory to, size_t to_offset, size_t bytes) {
  if (bytes == 0) return;
  std::lock_guard<std::mutex> lock(queue_mutex_);
  Check(
      Cl().EnqueueCopyBuffer(queue_, from, to, from_offset, to_offset, bytes, 0, nullptr, nullptr),
      "copy on " + info.name);
}

void Device::Launch(Kernel kernel, uint32_t dimensions, const size_t* global, const size_t* local) {
  std::lock_guard<std::mutex> lock(queue_mutex_);
  Event event = nullptr;
  Check(Cl().EnqueueNDRangeKernel(queue_, kernel, dimensions, nullptr, global, local, 0, nullptr,
                                  profilers_ ? &event : nullptr),
        "clEnqueueNDRangeKernel");
  if (event) events_.push_back(event);
}

void Device::Finish() {
  Queue queue;
  {
    std::lock_guard<std::mutex> lock(queue_mutex_);
    queue = queue_;
  }
  Check(Cl().Finish(queue), "work on " + info.name);
}

void Device::StartProfiling() {
  std::lock_guard<std::mutex> lock(queue_mutex_);
  if (profilers_++) return;
  // Time stamps cost time, so a queue that takes them is used only while profiling.
  Check(Cl().Finish(plain_), "work on " + info.name);
  if (!profiling_) {
    Code code;
    profiling_ = Cl().CreateCommandQueue(context_, info.id, kProfilingEnable, &code);
    if (code != kSuccess) profiling_ = nullptr;
  }
  if (profiling_) queue_ = profiling_;
}

void Device::StopProfiling() {
  std::lock_guard<std::mutex> lock(queue_mutex_);
  if (--profilers_) return;
  const Code code = Cl().Finish(queue_);
  for (Event event : events_) Cl().ReleaseEvent(event);
  events_.clear();
  queue_ = plain_;
  Check(code, "work on " + info.name);
}

size_t Device::ProfiledKernels() {
  std::lock_guard<std::mutex> lock(queue_mutex_);
  return events_.size();
}

int64_t Device::KernelNanoseconds(size_t begin, size_t end) {
  Finish();
  std::lock_guard<std::mutex> lock(queue_mutex_);
  int64_t sum = 0;
  for (size_t index = begin; index < end; ++index) {
    uint64_t started, ended;
    for (auto [name, value] : {std::pair{kCommandStart, &started}, {kCommandEnd, &ended}}) {
      if (Cl().GetEventProfilingInfo(events_[index], name, sizeof(*value), value, nullptr)) {
        return 0;
      }
    }
    sum += static_cast<int64_t>(ended - started);
  }
  return sum;
}

const std::vector<DeviceInfo>& DeviceInfos() {
  static const std::vector<DeviceInfo> infos = FindAllowed();
  return infos;
}

Device& GetDevice(int number) {
  static std::mutex mutex;
  // Never destroyed: drivers may already be unloaded when the process ends.
  static auto* devices = new std::vector<std::unique_ptr<Device>>(DeviceInfos().size());
  if (number < 0 || static_cast<size_t>(number) >= devices->size()) {
    throw Error("no OpenCL device " + std::to_string(number) + "; there are " +
                std::to_string(devices->size()));
  }
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Device>& device = (*devices)[number];
  if (!device) device = std::make_unique<Device>(DeviceInfos()[number]);
  return *device;
}

}  // namespace opencl
