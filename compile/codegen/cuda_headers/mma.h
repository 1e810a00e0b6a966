// Tensor cores: 16x16x16 products of float16 matrices, by the instructions of PTX's manual.
#pragma once
namespace nvcuda { namespace wmma {
struct matrix_a; struct matrix_b; struct accumulator; struct row_major;
enum layout_t { mem_row_major };
template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment;
template <> struct fragment<matrix_a, 16, 16, 16, half, row_major> { unsigned x[8]; };
template <> struct fragment<matrix_b, 16, 16, 16, half, row_major> { unsigned x[8]; };
template <> struct fragment<accumulator, 16, 16, 16, float> { float x[8]; };
typedef fragment<matrix_a, 16, 16, 16, half, row_major> Data;
typedef fragment<matrix_b, 16, 16, 16, half, row_major> Weights;
typedef fragment<accumulator, 16, 16, 16, float> Sums;
#define ALL(kind, x) kind(x[0]), kind(x[1]), kind(x[2]), kind(x[3]), \
                     kind(x[4]), kind(x[5]), kind(x[6]), kind(x[7])
__device__ inline unsigned place(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
__device__ inline void fill_fragment(Sums& sums, float value) {
  for (int i = 0; i < 8; ++i) sums.x[i] = value;
}
__device__ inline void load_matrix_sync(Data& data, const half* matrix, unsigned row) {
  asm volatile("wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
               : ALL("=r", data.x) : "r"(place(matrix)), "r"(row) : "memory");
}
__device__ inline void load_matrix_sync(Weights& weights, const half* matrix, unsigned row) {
  asm volatile("wmma.load.b.sync.aligned.row.m16n16k16.shared.f16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
               : ALL("=r", weights.x) : "r"(place(matrix)), "r"(row) : "memory");
}
__device__ inline void store_matrix_sync(float* matrix, const Sums& sums, unsigned row, layout_t) {
  asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 "
               "[%0], {%1, %2, %3, %4, %5, %6, %7, %8}, %9;"
               :: "r"(place(matrix)), ALL("f", sums.x), "r"(row) : "memory");
}
__device__ inline void mma_sync(Sums& result, const Data& data, const Weights& weights,
                                const Sums& sums) {
  asm volatile("wmma.mma.sync.aligned.row.row.m16n16k16.f32.f32 "
               "{%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11, %12, %13, %14, %15}, "
               "{%16, %17, %18, %19, %20, %21, %22, %23}, "
               "{%24, %25, %26, %27, %28, %29, %30, %31};"
               : ALL("=f", result.x) : ALL("r", data.x), ALL("r", weights.x), ALL("f", sums.x));
}
#undef ALL
} }
