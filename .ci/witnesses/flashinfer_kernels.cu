// FlashInfer's quantisation kernels, instantiated: bits packed into bytes, RMS norm, RMS norm to E4M3.
#include <flashinfer/norm.cuh>
#include <flashinfer/quantization.cuh>

using bf16 = __nv_bfloat16;
namespace fi = flashinfer;

template __global__ void fi::quantization::PackBitsKernel<fi::quantization::BitOrder::kBig>(bool *, uint8_t *, int64_t);
template __global__ void fi::norm::RMSNormKernel<8, bf16>(bf16 *, bf16 *, bf16 *, uint32_t, uint32_t, uint32_t, float, float);
template __global__ void fi::norm::RMSNormQuantKernel<8, bf16, __nv_fp8_e4m3>(bf16 *, bf16 *, __nv_fp8_e4m3 *, uint32_t,
                                                                              uint32_t, uint32_t, float, float *, float);
