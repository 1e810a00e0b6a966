// Uses the C++ class of the examples; exits with 0 if it does what it says.
#include "mobilenet_v2.h"
#include "mobilenet_tvm.hpp"

#include <cmath>
#include <cstring>
#include <utility>

MOBILENET_TVM_MODEL(MobileNetV2, mobilenet_v2, MOBILENET_V2);

static mobilenet_tvm::Tensor<float, MOBILENET_V2_INPUT_0_ELEMENTS> image;
static mobilenet_tvm::Tensor<float, MOBILENET_V2_OUTPUT_0_ELEMENTS> logits, again;

int main() {
  image.fill(0.5f);
  logits.fill(NAN);
  MobileNetV2 first(2);
  first.run(image.data(), logits.data());
  MobileNetV2 moved = std::move(first);
  moved.run(image.data(), again.data());
  for (float value : logits)
    if (!std::isfinite(value))
      return 2;
  if (logits != again)
    return 3;
  try {
    moved.run(image.data() + 1, logits.data());
    return 4;
  } catch (const mobilenet_tvm::Error &error) {
    if (error.status != MOBILENET_V2_UNALIGNED || std::strcmp(error.what(), "a pointer is not aligned") != 0)
      return 5;
  }
  try {
    MobileNetV2 none(0);
    return 6;
  } catch (const mobilenet_tvm::Error &error) {
    return error.status == MOBILENET_V2_BAD_THREADS ? 0 : 7;
  }
}
