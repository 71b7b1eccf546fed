// The little of the CUDA runtime that CUTLASS's host code calls while it makes parameters, on the driver alone.
#include <dlfcn.h>
#include <stddef.h>

int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *result) {
    (void)version, (void)flags;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    *function = driver ? dlsym(driver, name) : NULL;
    if (result)
        *result = *function ? 0 : 1;
    return *function ? 0 : 500;
}

int cudaGetLastError(void) { return 0; }

const char *cudaGetErrorString(int code) {
    (void)code;
    return "an error";
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    int (*get)(int *, int, int) = NULL;
    cudaGetDriverEntryPointByVersion("cuDeviceGetAttribute", (void **)&get, 0, 0, NULL);
    return get ? get(value, attribute, device) : 500;
}

int cudaGetDevice(int *device) { return *device = 0; }

// The compiler registers machine code that nobody launches from here.
void **__cudaRegisterFatBinary(void *binary) { return (void **)binary; }
void __cudaRegisterFatBinaryEnd(void **handle) { (void)handle; }
void __cudaUnregisterFatBinary(void **handle) { (void)handle; }
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
char __cudaInitModule(void **handle) { return handle != NULL; }
