//! Tensor maps. The 128 bytes are the emulator's own encoding, opaque as the driver's are.

use std::ffi::{c_int, c_uint};

use hadal_emulator::tma::{DataType, Interleave, L2Promotion, OobFill, Swizzle, TensorMap, Tiled};

use crate::abi::{DevicePtr, In, Out, exports};
use crate::error::{Code, Error, Result};

/// A driver's number as one of our enums.
fn named<T>(argument: &str, value: c_int, from: impl Fn(u32) -> Option<T>) -> Result<T> {
    u32::try_from(value)
        .ok()
        .and_then(from)
        .ok_or_else(|| Error::invalid(format!("tensor map: {argument} is {value}")))
}

exports! {
    fn cuTensorMapEncodeTiled(map: Out<[u64; 16]>, data_type: c_int, rank: c_uint, address: DevicePtr, dims: In<u64>,
                              strides: In<u64>, box_dims: In<u32>, element_strides: In<u32>, interleave: c_int,
                              swizzle: c_int, l2_promotion: c_int, oob_fill: c_int) {
        if rank == 0 || rank > 5 {
            return Err(Error::invalid(format!("tensor map: rank {rank}, expected 1 to 5")));
        }
        if !map.is_multiple_of(64) {
            return Err(Error::invalid("tensor map: the map itself must lie at a multiple of 64 bytes"));
        }
        let rank = rank as usize;
        let encoded = TensorMap::new(&Tiled {
            data_type: named("tensorDataType", data_type, DataType::from_driver)?,
            address,
            dims: &dims.list(rank)?,
            strides: &strides.list(rank - 1)?,
            box_dims: &box_dims.list(rank)?,
            element_strides: &element_strides.list(rank)?,
            interleave: named("interleave", interleave, Interleave::from_driver)?,
            swizzle: named("swizzle", swizzle, Swizzle::from_driver)?,
            l2_promotion: named("l2Promotion", l2_promotion, L2Promotion::from_driver)?,
            oob_fill: named("oobFill", oob_fill, OobFill::from_driver)?,
        });
        map.put(encoded.map_err(|error| Error::invalid(error.to_string()))?.encode())
    }

    fn cuTensorMapReplaceAddress(_map: Out<[u64; 16]>, _address: DevicePtr) {
        Err(Error::new(Code::NotSupported, "encode a new tensor map instead"))
    }

    fn cuTensorMapEncodeIm2col(_map: Out<[u64; 16]>, _data_type: c_int, _rank: c_uint, _address: DevicePtr,
                               _dims: In<u64>) {
        Err(Error::new(Code::NotSupported, "im2col tensor maps are not emulated"))
    }
}
