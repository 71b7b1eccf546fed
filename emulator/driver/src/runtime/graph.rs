//! Capture, graphs, and host memory that kernels reach: each the driver's, under the runtime's name.

use std::ffi::{c_int, c_uint, c_void};

use crate::abi::{DevicePtr, Handle, In, Out};
use crate::capture::*;
use crate::event::cuEventRecordWithFlags;
use crate::graph::*;
use crate::host::*;
use crate::runtime::registry::kernel;
use crate::runtime::{answered, runtime};
use crate::state;

/// `cudaPointerAttributes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointerAttributes {
    kind: c_int,
    device: c_int,
    on_device: u64,
    on_host: u64,
}

/// `cudaMemoryType…`
const UNREGISTERED: c_int = 0;
const MANAGED: c_int = 3;

/// What is known of a pointer; an ordinary host pointer is no error.
fn about(pointer: u64) -> crate::error::Result<PointerAttributes> {
    let state = state::lock()?;
    let host = state.host_range(pointer).map(|(_, host)| host);
    Ok(match (state.allocation(pointer), host) {
        (Some((.., device)), _) => {
            PointerAttributes { kind: 2, device: device as c_int, on_device: pointer, on_host: 0 }
        }
        (None, Some(host)) => PointerAttributes {
            kind: if host.kind == Kind::Managed { MANAGED } else { 1 },
            device: host.device as c_int,
            on_device: pointer,
            on_host: pointer,
        },
        (None, None) => PointerAttributes { kind: UNREGISTERED, device: -2, on_device: 0, on_host: pointer },
    })
}

runtime! {
    fn cudaStreamBeginCapture(stream: Handle, mode: c_int) {
        answered(cuStreamBeginCapture_v2(stream, mode))
    }

    fn cudaStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        answered(cuStreamEndCapture(stream, graph))
    }

    fn cudaStreamGetCaptureInfo_v2(stream: Handle, status: Out<c_int>, id: Out<u64>, graph: Out<Handle>,
                                   dependencies: Out<*const c_void>, count: Out<usize>) {
        answered(cuStreamGetCaptureInfo_v2(stream, status, id, graph, dependencies, count))
    }

    fn cudaThreadExchangeStreamCaptureMode(mode: Out<c_int>) {
        answered(cuThreadExchangeStreamCaptureMode(mode))
    }

    fn cudaGraphCreate(graph: Out<Handle>, flags: c_uint) {
        answered(cuGraphCreate(graph, flags))
    }

    fn cudaGraphDestroy(graph: Handle) {
        answered(cuGraphDestroy(graph))
    }

    fn cudaGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        answered(cuGraphGetNodes(graph, nodes, count))
    }

    fn cudaGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        answered(cuGraphGetRootNodes(graph, nodes, count))
    }

    fn cudaGraphNodeGetType(node: Handle, kind: Out<c_int>) {
        answered(cuGraphNodeGetType(node, kind))
    }

    /// `cudaKernelNodeParams` is the driver's first structure, with a host function for the kernel.
    fn cudaGraphAddKernelNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelParams>) {
        let params = params.get()?.of(kernel)?;
        answered(cuGraphAddKernelNode(node, graph, after, count, In::of(&params)))
    }

    fn cudaGraphKernelNodeSetParams(node: Handle, params: In<KernelParams>) {
        let params = params.get()?.of(kernel)?;
        answered(cuGraphKernelNodeSetParams(node, In::of(&params)))
    }

    fn cudaGraphExecKernelNodeSetParams(exec: Handle, node: Handle, params: In<KernelParams>) {
        let params = params.get()?.of(kernel)?;
        answered(cuGraphExecKernelNodeSetParams(exec, node, In::of(&params)))
    }

    fn cudaGraphAddMemsetNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<FillParams>) {
        answered(cuGraphAddMemsetNode(node, graph, after, count, params, 0))
    }

    fn cudaGraphAddMemcpyNode1D(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, to: u64, from: u64,
                                bytes: usize, _kind: c_int) {
        add_copy(node, graph, (after, count), (to, from, bytes))
    }

    fn cudaGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) {
        answered(cuGraphAddEmptyNode(node, graph, after, count))
    }

    fn cudaGraphInstantiateWithParams(exec: Out<Handle>, graph: Handle, params: Out<InstantiateParams>) {
        answered(cuGraphInstantiateWithParams(exec, graph, params))
    }

    /// What `cudaStreamGetCaptureInfo` is in CUDA 13.
    fn cudaStreamGetCaptureInfo(stream: Handle, status: Out<c_int>, id: Out<u64>, graph: Out<Handle>,
                                dependencies: Out<*const c_void>, edges: Out<*const c_void>, count: Out<usize>) {
        answered(cuStreamGetCaptureInfo_v3(stream, status, id, graph, dependencies, edges, count))
    }

    fn cudaEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) {
        answered(cuEventRecordWithFlags(event, stream, flags))
    }

    /// As of CUDA 12.
    fn cudaGraphInstantiate(exec: Out<Handle>, graph: Handle, flags: u64) {
        answered(cuGraphInstantiateWithFlags(exec, graph, flags))
    }

    fn cudaGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, flags: u64) {
        answered(cuGraphInstantiateWithFlags(exec, graph, flags))
    }

    fn cudaGraphExecUpdate(exec: Handle, graph: Handle, result: Out<UpdateResult>) {
        answered(cuGraphExecUpdate_v2(exec, graph, result))
    }

    fn cudaGraphUpload(exec: Handle, stream: Handle) {
        answered(cuGraphUpload(exec, stream))
    }

    fn cudaGraphLaunch(exec: Handle, stream: Handle) {
        answered(cuGraphLaunch(exec, stream))
    }

    fn cudaGraphExecDestroy(exec: Handle) {
        answered(cuGraphExecDestroy(exec))
    }

    fn cudaHostRegister(address: usize, bytes: usize, flags: c_uint) {
        answered(cuMemHostRegister_v2(address, bytes, flags))
    }

    fn cudaHostUnregister(address: usize) {
        answered(cuMemHostUnregister(address))
    }

    fn cudaHostGetDevicePointer(device: Out<DevicePtr>, address: usize, flags: c_uint) {
        answered(cuMemHostGetDevicePointer_v2(device, address, flags))
    }

    fn cudaHostGetFlags(flags: Out<c_uint>, address: usize) {
        answered(cuMemHostGetFlags(flags, address))
    }

    fn cudaMallocManaged(address: Out<DevicePtr>, bytes: usize, flags: c_uint) {
        answered(cuMemAllocManaged(address, bytes, flags))
    }

    fn cudaPointerGetAttributes(attributes: Out<PointerAttributes>, pointer: u64) {
        attributes.put(about(pointer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::*;
    use super::*;

    #[test]
    fn a_fill_is_captured_and_replayed() {
        let (mut stream, mut graph, mut exec) = (0, 0, 0);
        let mut address = 0u64;
        assert_eq!(cudaMalloc(Out::of(&mut address), 4), 0);
        assert_eq!(cudaMemset(address, 1, 4), 0);
        assert_eq!(cudaStreamCreateWithFlags(Out::of(&mut stream), 1), 0);
        assert_eq!(cudaStreamBeginCapture(stream, 1), 0);
        assert_eq!(cudaMemsetAsync(address, 2, 4, stream), 0);
        assert_eq!(cudaStreamEndCapture(stream, Out::of(&mut graph)), 0);
        assert_eq!(cudaGraphInstantiate(Out::of(&mut exec), graph, 0), 0);
        let mut pinned = 0usize;
        assert_eq!(cudaMallocHost(Out::of(&mut pinned), 4), 0);
        for (launches, expected) in [(0, 1u8), (1, 2)] {
            for _ in 0..launches {
                assert_eq!(cudaGraphLaunch(exec, stream), 0);
            }
            let mut out = [0u8; 4];
            assert_eq!(cudaStreamSynchronize(stream), 0);
            assert_eq!(cudaMemcpy(Out::of(&mut out).cast(), In::at_address(address as usize), 4, 4), 0);
            assert_eq!(out, [expected; 4]);
        }
        assert_eq!([cudaGraphDestroy(graph), cudaGraphExecDestroy(exec)], [0, 0]);
        let mut about = PointerAttributes { kind: -1, device: 0, on_device: 0, on_host: 0 };
        let local = &raw const about as u64;
        for (pointer, kind) in [(address, 2), (pinned as u64, 1), (local, UNREGISTERED)] {
            assert_eq!(cudaPointerGetAttributes(Out::of(&mut about), pointer), 0);
            assert_eq!(about.kind, kind);
        }
        assert_eq!([cudaFree(address), cudaFreeHost(pinned)], [0, 0]);
    }
}
