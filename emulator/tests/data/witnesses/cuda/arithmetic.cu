// What compilers make of ordinary arithmetic: library functions, integers of all widths, calls, tables, local arrays.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

// The libraries' elementary functions in single precision, one after another.
extern "C" __global__ void functions(const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    float v = x[i], a = fabsf(v);
    float results[12] = {expf(v), logf(a + 1), sinf(v * 1e6f), cosf(v), tanhf(v), powf(a, 1.7f),
                         sqrtf(a), 1 / (v + 20), erff(v), cbrtf(v), atan2f(v, 2), fmodf(v * 100, 7)};
    for (int j = 0; j < 12; j++)
        y[j * n + i] = results[j];
}

extern "C" __global__ void functions_f64(const double *x, double *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    double v = x[i], a = fabs(v);
    double results[6] = {exp(v), log(a + 1), sin(v), sqrt(a), v / (a + 3), cbrt(v)};
    for (int j = 0; j < 6; j++)
        y[j * n + i] = results[j];
}

__device__ __noinline__ unsigned long long mix(unsigned long long x, int depth) {
    // Recursive on purpose: a real call with a frame.
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9ull;
    return depth == 0 ? x : mix(x + depth, depth - 1);
}

__device__ __noinline__ unsigned long long add(unsigned long long a, unsigned long long b) { return a + b; }
__device__ __noinline__ unsigned long long times(unsigned long long a, unsigned long long b) { return a * b; }

// Integers: wide products, division, bit counts, funnel shifts, byte permutation, dot products of bytes, a jump table.
extern "C" __global__ void integers(const unsigned long long *x, unsigned long long *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned long long a = x[2 * i], b = x[2 * i + 1] | 1;
    unsigned lo = (unsigned)a, hi = (unsigned)(a >> 32), c = (unsigned)b;
    unsigned long long r;
    switch (i % 13) {
    case 0: r = __umul64hi(a, b); break;
    case 1: r = a / b; break;
    case 2: r = a % (b >> 40 | 1); break;
    case 3: r = (unsigned long long)((long long)a / (long long)(int)c); break;
    case 4: r = __popcll(a) << 8 | __clzll(a | 1); break;
    case 5: r = __brevll(a) ^ __ffsll(b); break;
    case 6: r = __funnelshift_l(lo, hi, c % 32); break;
    case 7: r = __byte_perm(lo, hi, c & 0x7777); break;
    case 8: r = (unsigned)__dp4a((int)lo, (int)hi, (int)c); break;
    case 9: r = (unsigned)(short)lo * (unsigned short)hi + (signed char)c; break;
    case 10: r = mix(a, 5); break;
    case 11: r = b >> 7 & 1 ? times(a, b) : add(a, b); break;
    default: r = (unsigned)__vadd4(lo, hi) + __usad(lo, hi, c); break;
    }
    unsigned char bytes[8];
    for (int j = 0; j < 8; j++)
        bytes[j] = (unsigned char)(r >> (8 * j));
    // A local array indexed by data.
    unsigned char swap = bytes[b >> 9 & 7];
    bytes[b >> 9 & 7] = bytes[0];
    bytes[0] = swap;
    for (int j = 0; j < 8; j++)
        ((unsigned char *)y)[8 * i + j] = bytes[j];
}

// F32 to E4M3, E5M2 and F16 and back.
extern "C" __global__ void narrow(const float *x, unsigned char *e4m3, unsigned char *e5m2, float *back, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    __nv_fp8_e4m3 small(x[i]);
    __nv_fp8_e5m2 wide(x[i]);
    e4m3[i] = small.__x;
    e5m2[i] = wide.__x;
    back[3 * i] = float(small);
    back[3 * i + 1] = float(wide);
    back[3 * i + 2] = __half2float(__hfma(__float2half(x[i]), __float2half(0.5f), __float2half(1.0f)));
}
