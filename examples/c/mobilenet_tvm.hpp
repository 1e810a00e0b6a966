// A C++17 class around the C interface of a model: contexts end by themselves, errors are thrown.
//
//   #include "mobilenet_v2.h"
//   #include "mobilenet_tvm.hpp"
//   MOBILENET_TVM_MODEL(MobileNetV2, mobilenet_v2, MOBILENET_V2);
//
//   MobileNetV2 model(2);
//   mobilenet_tvm::Tensor<float, MOBILENET_V2_INPUT_0_ELEMENTS> image;
//   mobilenet_tvm::Tensor<float, MOBILENET_V2_OUTPUT_0_ELEMENTS> logits;
//   model.run(image.data(), logits.data());
#ifndef MOBILENET_TVM_HPP
#define MOBILENET_TVM_HPP

#include <array>
#include <cstddef>
#include <memory>
#include <stdexcept>

namespace mobilenet_tvm {

// Thrown by the functions of a model; `status` is the value of its C enumeration.
class Error : public std::runtime_error {
 public:
  Error(int value, const char *text) : std::runtime_error(text), status(value) {}
  const int status;
};

// Values with the alignment that every model asks of its inputs and outputs.
template <typename T, std::size_t elements>
struct alignas(64) Tensor : std::array<T, elements> {};

// A context of the model that `Functions` describes, see MOBILENET_TVM_MODEL. It can be moved but
// not copied. Threads that run a model at the same time have a context each.
template <typename Functions>
class Model {
 public:
  // Starts `threads - 1` threads.
  explicit Model(int threads = 1) {
    typename Functions::context *created = nullptr;
    check(Functions::create(threads, nullptr, 0, &created));
    context_.reset(created);
  }

  // Takes the inputs, then the outputs, as pointers of the types in the C function.
  template <typename... Pointers>
  void run(Pointers... tensors) {
    check(Functions::run(context_.get(), tensors...));
  }

 private:
  struct Destroy {
    void operator()(typename Functions::context *context) const { Functions::destroy(context); }
  };

  static void check(typename Functions::status status) {
    if (status != Functions::ok)
      throw Error(status, Functions::text(status));
  }

  std::unique_ptr<typename Functions::context, Destroy> context_;
};

}  // namespace mobilenet_tvm

// Define a class for the model whose C names begin with `prefix` and `PREFIX`.
#define MOBILENET_TVM_MODEL(Name, prefix, PREFIX)              \
  struct Name##Functions {                                     \
    using context = prefix##_context;                          \
    using status = prefix##_status;                            \
    static constexpr status ok = PREFIX##_OK;                  \
    static constexpr auto create = prefix##_create;            \
    static constexpr auto run = prefix##_run;                  \
    static constexpr auto destroy = prefix##_destroy;          \
    static constexpr auto text = prefix##_status_text;         \
  };                                                           \
  static_assert(PREFIX##_ALIGNMENT <= 64, "Tensor's alignment"); \
  using Name = mobilenet_tvm::Model<Name##Functions>

#endif
