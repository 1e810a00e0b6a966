// Loads the OpenCL part of an artifact and launches its kernels.
#include <tvm/ffi/cast.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "current.h"
#include "device.h"
#include "kernels.h"

namespace opencl {
namespace {

using tvm::ffi::Any;
using tvm::ffi::AnyView;
using tvm::ffi::Bytes;
using tvm::ffi::Function;
using tvm::ffi::Optional;
using tvm::ffi::PackedArgs;
using tvm::ffi::String;

// The folder of compiled programs; set once, before the first module is used.
std::string& CacheFolder() {
  static std::string folder;
  return folder;
}

// Reads what TVM's code generator writes: little endian; lengths precede strings and lists.
class Reader {
 public:
  explicit Reader(const std::string& bytes) : rest_(bytes.data()), end_(rest_ + bytes.size()) {}

  template <typename Value>
  Value Read() {
    Value value;
    std::memcpy(&value, Take(sizeof(Value)), sizeof(Value));
    return value;
  }

  std::string Text() {
    const auto size = Read<uint64_t>();
    return std::string(Take(size), size);
  }

 private:
  const char* Take(uint64_t size) {
    if (size > static_cast<uint64_t>(end_ - rest_)) {
      TVM_FFI_THROW(ValueError) << "the OpenCL part of the artifact is damaged; compile it again";
    }
    return std::exchange(rest_, rest_ + size);
  }

  const char* rest_;
  const char* end_;
};

// A kernel's parameters: its own arguments, then one number for each launch tag.
struct Signature {
  std::vector<DLDataType> arguments;
  // Which size each tag's number is: 0 to 2 for the grid, 3 to 5 for the group.
  std::vector<int> extents;
  uint32_t dimensions = 1;
};

Signature ReadSignature(Reader& reader) {
  Signature signature;
  signature.arguments.resize(reader.Read<uint64_t>() & 0xffff);
  for (DLDataType& type : signature.arguments) {
    type.code = reader.Read<uint8_t>();
    type.bits = reader.Read<uint8_t>();
    type.lanes = reader.Read<uint16_t>();
  }
  const auto tags = reader.Read<uint64_t>();
  for (uint64_t index = 0; index < tags; ++index) {
    const std::string tag = reader.Text();
    const bool group = tag.rfind("threadIdx.", 0) == 0;
    const int axis = tag.empty() ? -1 : tag.back() - 'x';
    if ((!group && tag.rfind("blockIdx.", 0) != 0) || axis < 0 || axis > 2) {
      TVM_FFI_THROW(ValueError) << "a kernel uses '" << tag << "', which OpenCL lacks";
    }
    signature.extents.push_back(axis + (group ? 3 : 0));
    signature.dimensions = std::max(signature.dimensions, static_cast<uint32_t>(axis + 1));
  }
  const auto extras = reader.Read<uint64_t>();
  for (uint64_t index = 0; index < extras; ++index) reader.Read<int32_t>();
  return signature;
}

// Each kernel's source is self-contained and begins with a line that names it.
std::map<std::string, std::string> SplitSource(const std::string& source) {
  const std::string mark = "// Function: ";
  std::map<std::string, std::string> sources;
  for (size_t begin = source.find(mark); begin != std::string::npos;) {
    const size_t name = begin + mark.size(), line = source.find('\n', begin);
    const size_t next = source.find(mark, name);
    sources[source.substr(name, line - name)] = source.substr(begin, next - begin);
    begin = next;
  }
  return sources;
}

void SetArgument(Kernel kernel, uint32_t index, DLDataType type, const TVMFFIAny& value) {
  const auto set = [&](size_t size, const void* data) {
    Check(Cl().SetKernelArg(kernel, index, size, data), "clSetKernelArg");
  };
  if (type.code == kDLOpaqueHandle) {
    set(sizeof(value.v_ptr), &value.v_ptr);
  } else if (type.code == kDLFloat && type.bits == 32) {
    const auto narrow = static_cast<float>(value.v_float64);
    set(sizeof(narrow), &narrow);
  } else if (type.code == kDLFloat && type.bits == 64) {
    set(sizeof(value.v_float64), &value.v_float64);
  } else if (type.code == kDLInt || type.code == kDLUInt || type.code == kDLBool) {
    // All machines with TVM's wheels are little endian.
    set((type.bits + 7) / 8, &value.v_int64);
  } else {
    throw Error("a kernel's argument has a type that cannot be passed to OpenCL");
  }
}

class Module final : public tvm::ffi::ModuleObj {
 public:
  explicit Module(const Bytes& bytes) : bytes_(bytes.data(), bytes.size()) {
    Reader reader(bytes_);
    const std::string format = reader.Text();
    if (format != "cl") {
      TVM_FFI_THROW(ValueError) << "the artifact's kernels are '" << format
                                << "', not OpenCL C; compile it again";
    }
    std::vector<std::string> names;
    const auto count = reader.Read<uint64_t>();
    for (uint64_t index = 0; index < count; ++index) {
      const std::string key = reader.Text();
      names.push_back(reader.Text());
      numbers_[key] = signatures_.size();
      signatures_.push_back(ReadSignature(reader));
    }
    source_ = reader.Text();
    std::map<std::string, std::string> sources = SplitSource(source_);
    for (const std::string& name : names) {
      if (!sources.count(name)) {
        TVM_FFI_THROW(ValueError) << "the artifact lacks the source of kernel " << name;
      }
      sources_.push_back({name, std::move(sources[name])});
    }
  }

  const char* kind() const final { return "opencl"; }

  int GetPropertyMask() const final {
    return tvm::ffi::Module::kBinarySerializable | tvm::ffi::Module::kRunnable;
  }

  Bytes SaveToBytes() const final { return Bytes(bytes_); }

  String InspectSource(const String&) const final { return source_; }

  // Returns a kernel, or "opencl.build", which takes a device's number and prepares all kernels.
  // Only that uses the cache: kernels tried while tuning are not worth a file.
  Optional<Function> GetFunction(const String& name) final {
    tvm::ffi::ObjectPtr<Module> self = tvm::ffi::GetObjectPtr<Module>(this);
    if (name == "opencl.build") {
      return Function::FromTyped([self](int device) { self->On(device, CacheFolder()); });
    }
    const auto found = numbers_.find(name);
    if (found == numbers_.end()) return std::nullopt;
    return Function::FromPacked([self, number = found->second](PackedArgs arguments, Any*) {
      self->Launch(number, reinterpret_cast<const TVMFFIAny*>(arguments.data()), arguments.size());
    });
  }

 private:
  void Launch(size_t number, const TVMFFIAny* values, int count) {
    const Signature& signature = signatures_[number];
    const size_t own = signature.arguments.size();
    if (static_cast<size_t>(count) != own + signature.extents.size()) {
      throw Error("kernel " + sources_[number].name + " is called with " + std::to_string(count) +
                  " arguments");
    }
    std::array<size_t, 6> sizes;
    sizes.fill(1);
    for (size_t index = 0; index < signature.extents.size(); ++index) {
      // With dynamic shapes an extent may be 0, which OpenCL does not allow.
      const int64_t extent = values[own + index].v_int64;
      sizes[signature.extents[index]] = extent > 0 ? extent : 1;
    }
    for (int axis = 0; axis < 3; ++axis) sizes[axis] *= sizes[axis + 3];
    try {
      On(CurrentDevice())
          .Launch(
              number,
              [&](Kernel kernel) {
                for (size_t index = 0; index < own; ++index) {
                  SetArgument(kernel, index, signature.arguments[index], values[index]);
                }
              },
              signature.dimensions, sizes.data(), sizes.data() + 3);
    } catch (const Error& error) {
      std::string size;
      for (int axis = 3; axis < 6; ++axis) {
        size += (axis > 3 ? " x " : "") + std::to_string(sizes[axis]);
      }
      throw Error("kernel " + sources_[number].name + " (work-group " + size + "): " + error.what(),
                  error.code);
    }
  }

  Kernels& On(int device, const std::string& cache = "") {
    std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<Kernels>& kernels = kernels_[device];
    if (!kernels) kernels = std::make_unique<Kernels>(GetDevice(device), sources_, cache);
    return *kernels;
  }

  const std::string bytes_;
  std::string source_;
  std::map<std::string, size_t> numbers_;
  std::vector<Signature> signatures_;
  std::vector<KernelSource> sources_;

  std::mutex mutex_;
  // By the number of their device.
  std::map<int, std::unique_ptr<Kernels>> kernels_;
};

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  // Other builds of TVM may have their own OpenCL, and a name can be registered only once.
  if (Function::GetGlobal("ffi.Module.load_from_bytes.opencl")) return;
  tvm::ffi::reflection::GlobalDef()
      .def(
          "ffi.Module.load_from_bytes.opencl",
          [](const Bytes& bytes) { return tvm::ffi::Module(tvm::ffi::make_object<Module>(bytes)); })
      .def("mobilenet_tvm.opencl.keep_programs_in",
           [](const String& folder) { CacheFolder() = folder; });
}

}  // namespace opencl
