//! What the runtime has and this library has not: each is there, so that a program starts, and says so when it is called.

use std::ffi::c_int;

use crate::error::{Code, Error};
use crate::runtime::call;

macro_rules! refused {
    ($($name:ident),* $(,)?) => {$(
        /// Not served. Arguments are left where they are.
        // SAFETY: the name is the CUDA runtime's own.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> c_int {
            call(stringify!($name), || Err(Error::new(Code::NotSupported, "the emulator does not have this call")))
        }
    )*};
}

refused! {
    // Arrays, textures, surfaces.
    cudaArrayGetInfo, cudaArrayGetMemoryRequirements, cudaArrayGetPlane, cudaArrayGetSparseProperties,
    cudaCreateSurfaceObject, cudaCreateTextureObject, cudaDestroySurfaceObject, cudaDestroyTextureObject,
    cudaDeviceGetTexture1DLinearMaxWidth, cudaExternalMemoryGetMappedMipmappedArray, cudaFreeArray,
    cudaFreeMipmappedArray, cudaGetChannelDesc, cudaGetMipmappedArrayLevel, cudaGetSurfaceObjectResourceDesc,
    cudaGetTextureObjectResourceDesc, cudaGetTextureObjectResourceViewDesc, cudaGetTextureObjectTextureDesc,
    cudaGraphicsResourceGetMappedMipmappedArray, cudaGraphicsSubResourceGetMappedArray,
    cudaGraphicsVDPAURegisterOutputSurface, cudaGraphicsVDPAURegisterVideoSurface, cudaMalloc3DArray,
    cudaMallocArray, cudaMallocMipmappedArray, cudaMemcpy2DArrayToArray, cudaMemcpy2DFromArray,
    cudaMemcpy2DFromArrayAsync, cudaMemcpy2DToArray, cudaMemcpy2DToArrayAsync, cudaMemcpyArrayToArray,
    cudaMemcpyFromArray, cudaMemcpyFromArrayAsync, cudaMemcpyToArray, cudaMemcpyToArrayAsync,
    cudaMipmappedArrayGetMemoryRequirements, cudaMipmappedArrayGetSparseProperties,
    // Graphics.
    cudaDeviceGetNvSciSyncAttributes, cudaEGLStreamConsumerAcquireFrame, cudaEGLStreamConsumerConnect,
    cudaEGLStreamConsumerConnectWithFlags, cudaEGLStreamConsumerDisconnect, cudaEGLStreamConsumerReleaseFrame,
    cudaEGLStreamProducerConnect, cudaEGLStreamProducerDisconnect, cudaEGLStreamProducerPresentFrame,
    cudaEGLStreamProducerReturnFrame, cudaEventCreateFromEGLSync, cudaGLGetDevices, cudaGLMapBufferObject,
    cudaGLMapBufferObjectAsync, cudaGLRegisterBufferObject, cudaGLSetBufferObjectMapFlags, cudaGLSetGLDevice,
    cudaGLUnmapBufferObject, cudaGLUnmapBufferObjectAsync, cudaGLUnregisterBufferObject,
    cudaGraphicsEGLRegisterImage, cudaGraphicsGLRegisterBuffer, cudaGraphicsGLRegisterImage,
    cudaGraphicsMapResources, cudaGraphicsResourceGetMappedEglFrame, cudaGraphicsResourceGetMappedPointer,
    cudaGraphicsResourceSetMapFlags, cudaGraphicsUnmapResources, cudaGraphicsUnregisterResource,
    cudaVDPAUGetDevice, cudaVDPAUSetVDPAUDevice,
    // Memory and semaphores of other interfaces and processes.
    cudaDestroyExternalMemory, cudaDestroyExternalSemaphore, cudaExternalMemoryGetMappedBuffer,
    cudaGraphAddExternalSemaphoresSignalNode, cudaGraphAddExternalSemaphoresWaitNode,
    cudaGraphExecExternalSemaphoresSignalNodeSetParams, cudaGraphExecExternalSemaphoresWaitNodeSetParams,
    cudaGraphExternalSemaphoresSignalNodeGetParams, cudaGraphExternalSemaphoresSignalNodeSetParams,
    cudaGraphExternalSemaphoresWaitNodeGetParams, cudaGraphExternalSemaphoresWaitNodeSetParams,
    cudaImportExternalMemory, cudaImportExternalSemaphore, cudaIpcCloseMemHandle, cudaIpcGetEventHandle,
    cudaIpcGetMemHandle, cudaIpcOpenEventHandle, cudaIpcOpenMemHandle, cudaMemPoolExportPointer,
    cudaMemPoolExportToShareableHandle, cudaMemPoolImportFromShareableHandle, cudaMemPoolImportPointer,
    cudaSignalExternalSemaphoresAsync, cudaWaitExternalSemaphoresAsync,
    // Kinds and edits of graph nodes.
    cudaDeviceGetGraphMemAttribute, cudaDeviceGraphMemTrim, cudaDeviceSetGraphMemAttribute,
    cudaGraphAddChildGraphNode, cudaGraphAddDependencies, cudaGraphAddEventRecordNode,
    cudaGraphAddEventWaitNode, cudaGraphAddHostNode, cudaGraphAddMemAllocNode, cudaGraphAddMemFreeNode,
    cudaGraphAddMemcpyNode, cudaGraphAddMemcpyNodeFromSymbol, cudaGraphAddMemcpyNodeToSymbol, cudaGraphAddNode,
    cudaGraphChildGraphNodeGetGraph, cudaGraphClone, cudaGraphConditionalHandleCreate,
    cudaGraphConditionalHandleCreate_v2, cudaGraphDebugDotPrint, cudaGraphDestroyNode,
    cudaGraphEventRecordNodeGetEvent, cudaGraphEventRecordNodeSetEvent, cudaGraphEventWaitNodeGetEvent,
    cudaGraphEventWaitNodeSetEvent, cudaGraphExecChildGraphNodeSetParams, cudaGraphExecEventRecordNodeSetEvent,
    cudaGraphExecEventWaitNodeSetEvent, cudaGraphExecGetFlags, cudaGraphExecGetId,
    cudaGraphExecHostNodeSetParams, cudaGraphExecMemcpyNodeSetParams, cudaGraphExecMemcpyNodeSetParams1D,
    cudaGraphExecMemcpyNodeSetParamsFromSymbol, cudaGraphExecMemcpyNodeSetParamsToSymbol,
    cudaGraphExecMemsetNodeSetParams, cudaGraphExecNodeSetParams, cudaGraphGetEdges, cudaGraphGetId,
    cudaGraphHostNodeGetParams, cudaGraphHostNodeSetParams, cudaGraphKernelNodeCopyAttributes,
    cudaGraphKernelNodeGetAttribute, cudaGraphKernelNodeGetParams, cudaGraphKernelNodeSetAttribute,
    cudaGraphMemAllocNodeGetParams, cudaGraphMemFreeNodeGetParams, cudaGraphMemcpyNodeGetParams,
    cudaGraphMemcpyNodeSetParams, cudaGraphMemcpyNodeSetParams1D, cudaGraphMemcpyNodeSetParamsFromSymbol,
    cudaGraphMemcpyNodeSetParamsToSymbol, cudaGraphMemsetNodeGetParams, cudaGraphMemsetNodeSetParams,
    cudaGraphNodeFindInClone, cudaGraphNodeGetContainingGraph, cudaGraphNodeGetDependencies,
    cudaGraphNodeGetDependentNodes, cudaGraphNodeGetEnabled, cudaGraphNodeGetLocalId, cudaGraphNodeGetParams,
    cudaGraphNodeGetToolsId, cudaGraphNodeSetEnabled, cudaGraphNodeSetParams, cudaGraphReleaseUserObject,
    cudaGraphRemoveDependencies, cudaGraphRetainUserObject, cudaStreamBeginCaptureToGraph,
    cudaStreamBeginRecaptureToGraph,
    // The rest.
    cudaDevResourceGenerateDesc, cudaDevSmResourceSplit, cudaDevSmResourceSplitByCount,
    cudaDeviceFlushGPUDirectRDMAWrites, cudaDeviceGetByPCIBusId, cudaDeviceGetDevResource,
    cudaDeviceGetExecutionCtx, cudaDeviceGetHostAtomicCapabilities, cudaDeviceGetP2PAtomicCapabilities,
    cudaDeviceGetP2PAttribute, cudaDeviceGetSharedMemConfig, cudaDeviceRegisterAsyncNotification,
    cudaDeviceSetSharedMemConfig, cudaDeviceUnregisterAsyncNotification, cudaExecutionCtxDestroy,
    cudaExecutionCtxGetDevResource, cudaExecutionCtxGetDevice, cudaExecutionCtxGetId,
    cudaExecutionCtxRecordEvent, cudaExecutionCtxStreamCreate, cudaExecutionCtxSynchronize,
    cudaExecutionCtxWaitEvent, cudaFuncGetName, cudaFuncGetParamCount, cudaFuncSetSharedMemConfig,
    cudaGetExportTable, cudaGreenCtxCreate, cudaLaunchHostFunc_v2, cudaLibraryEnumerateKernels,
    cudaLibraryGetGlobal, cudaLibraryGetManaged, cudaLibraryGetUnifiedFunction, cudaLibraryLoadFromFile,
    cudaLogsCurrent, cudaLogsDumpToFile, cudaLogsDumpToMemory, cudaLogsRegisterCallback,
    cudaLogsUnregisterCallback, cudaMemDiscardAndPrefetchBatchAsync, cudaMemDiscardBatchAsync,
    cudaMemGetDefaultMemPool, cudaMemGetLocationInfo, cudaMemGetMemPool, cudaMemPoolGetAccess,
    cudaMemPrefetchBatchAsync, cudaMemRangeGetAttribute, cudaMemRangeGetAttributes, cudaMemSetMemPool,
    cudaMemcpy3DBatchAsync, cudaMemcpy3DPeer, cudaMemcpy3DPeerAsync, cudaMemcpy3DWithAttributesAsync,
    cudaMemcpyBatchAsync, cudaMemcpyWithAttributesAsync, cudaSetValidDevices, cudaStreamCopyAttributes,
    cudaStreamGetAttribute, cudaStreamGetDevResource, cudaStreamGetId, cudaStreamUpdateCaptureDependencies,
    cudaSubgridCreate, cudaSubgridWorkerGridCreate, cudaSubgridWorksetCreate, cudaUserObjectCreate,
    cudaUserObjectRelease, cudaUserObjectRetain,
}

/// `cudaChannelFormatDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChannelFormat([c_int; 5]);

/// Only puts its arguments together; what uses the result is refused.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn cudaCreateChannelDesc(
    x: c_int,
    y: c_int,
    z: c_int,
    w: c_int,
    kind: c_int,
) -> ChannelFormat {
    ChannelFormat([x, y, z, w, kind])
}
