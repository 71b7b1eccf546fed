//! Initialisation, version, devices and their attributes.

use std::ffi::{c_char, c_int, c_uint};

use crate::abi::{Out, exports};
use crate::error::{Code, Error};
use crate::state;

/// CUDA 12.9: what has the functions and no more.
pub const VERSION: c_int = 12_090;

exports! {
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(Error::invalid(format!("flags must be 0, got {flags}")));
        }
        state::initialise()
    }

    fn cuDriverGetVersion(version: Out<c_int>) {
        version.put(VERSION)
    }

    fn cuDeviceGetCount(count: Out<c_int>) {
        count.put(state::lock()?.config.devices.len() as c_int)
    }

    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) {
        state::lock()?.device(ordinal)?;
        device.put(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, len: c_int, device: c_int) {
        let state = state::lock()?;
        let device = state.device(device)?;
        let text = state.config.devices[device].name.as_bytes();
        let room = (len.max(0) as usize).checked_sub(1).ok_or_else(|| Error::invalid("no room for a name"))?;
        let mut chars: Vec<c_char> = text.iter().take(room).map(|byte| *byte as c_char).collect();
        chars.push(0);
        name.put_all(&chars)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<u8>, device: c_int) {
        let device = state::lock()?.device(device)?;
        let mut bytes = *b"hadal-emulator\0\0";
        bytes[15] = device as u8;
        uuid.put_all(&bytes)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) {
        let state = state::lock()?;
        let device = state.device(device)?;
        bytes.put(state.config.devices[device].memory_bytes as usize)
    }

    fn cuDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) {
        let state = state::lock()?;
        can.put((state.device(device)? != state.device(peer)?) as c_int)
    }

    fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: c_int) {
        state::lock()?.device(device)?;
        major.put(9)?;
        minor.put(0)
    }

    fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) {
        let state = state::lock()?;
        let device = state.device(device)?;
        value.put(attribute_of(&state.config.devices[device], device, attribute)?)
    }
}

/// An H100's answers, sizes from the configuration.
fn attribute_of(
    device: &hadal_emulator::DeviceConfig,
    ordinal: usize,
    attribute: c_int,
) -> crate::error::Result<c_int> {
    Ok(match attribute {
        // Threads of a block, and its extents.
        1..=3 => device.threads_per_block as c_int,
        4 => 64,
        // Blocks of a grid.
        5 => c_int::MAX,
        6 | 7 => 65_535,
        // Shared memory without opting in.
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => c_int::MAX,
        12 | 82 => device.registers_per_sm as c_int,
        // Clocks in kHz and memory bus in bits: the data sheet's. Nothing here is timed by them.
        13 => 1_980_000,
        36 => 2_619_000,
        37 => 5120,
        14 => 512,
        // Copy engines, concurrent kernels, unified addresses; mapped, managed and registered host memory; pools.
        15 | 31 | 41 | 78..=80 | 90 => 1,
        19 | 83 | 89 | 91 | 99 | 115 => 1,
        40 => 3,
        16 => device.sms as c_int,
        33 => 1 + ordinal as c_int,
        38 => 50 << 20,
        39 => device.threads_per_sm as c_int,
        51 => 32,
        75 => 9,
        76 => 0,
        81 => device.shared_per_sm as c_int,
        87 => 2,
        95 => 1,
        97 => device.shared_per_block as c_int,
        106 => device.blocks_per_sm as c_int,
        111 => device.shared_reserved_per_block as c_int,
        // Cluster launches, tensor maps, unified function pointers.
        120 | 127 | 129 => 1,
        126 => 4,
        // What there is none of: time-outs, integrated memory, textures, virtual memory, …
        17
        | 18
        | 20..=30
        | 32
        | 34
        | 35
        | 42..=50
        | 52..=74
        | 77
        | 84..=86
        | 88
        | 92..=94
        | 96
        | 98
        | 100..=105
        | 107..=110
        | 112..=114
        | 116..=119
        | 121..=125
        | 128
        | 130..=148 => 0,
        _ => return Err(Error::quiet(Code::InvalidValue)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_emulator::DeviceConfig;

    #[test]
    fn what_a_launcher_asks_has_an_h100_s_answers() {
        let get = |n| attribute_of(&DeviceConfig::h100(), 0, n).unwrap();
        assert_eq!((get(75), get(76), get(16), get(97), get(81)), (9, 0, 132, 232_448, 233_472));
        assert_eq!((get(1), get(10), get(12), get(8)), (1024, 32, 65_536, 49_152));
        assert!(attribute_of(&DeviceConfig::h100(), 0, 149).is_err());
        assert!(attribute_of(&DeviceConfig::h100(), 0, 0).is_err());
    }
}
