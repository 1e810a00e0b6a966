// float16: conversions and comparisons, by the instructions of PTX's manual.
#pragma once
struct alignas(2) half {
  unsigned short bits;
  half() = default;
  __device__ half(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
  __device__ operator float() const {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
};
typedef half __half;
struct alignas(4) half2 { half x, y; };
typedef half2 __half2;
__device__ inline float __half2float(half x) { return x; }
__device__ inline half __float2half(float x) { return x; }
__device__ inline half __float2half_rn(float x) { return x; }
__device__ inline bool __hgt(half a, half b) { return float(a) > float(b); }
__device__ inline bool __hlt(half a, half b) { return float(a) < float(b); }
