//! Devices of one process.

use crate::device::Device;
use crate::error::{Error, Result};

/// Devices of this process that reach each other's memory. The rank of a device is its place in the team.
#[derive(Debug, Clone)]
pub struct Team {
    devices: Vec<Device>,
}

impl Team {
    /// A team of these devices, in rank order: different devices of one driver, each of which is given access to every other's
    /// memory. Access that exists already is fine.
    pub fn new(devices: Vec<Device>) -> Result<Team> {
        let Some(first) = devices.first() else {
            return Err(Error::shape("devices", "at least one device", "none"));
        };
        for (rank, device) in devices.iter().enumerate() {
            if !first.id().same_driver(device.id()) {
                let expected = format!("a device of the same driver as {}", first.id());
                return Err(Error::device("devices", expected, format_args!("{device:?} at rank {rank}")));
            }
            if let Some(twin) = devices[..rank].iter().position(|other| other.id() == device.id()) {
                let got = format!("{} at ranks {twin} and {rank}", device.id());
                return Err(Error::device("devices", "each device once", got));
            }
        }
        for device in &devices {
            for peer in devices.iter().filter(|peer| peer.id() != device.id()) {
                device.driver().enable_peer_access(device.ordinal(), peer.ordinal())?;
            }
        }
        Ok(Team { devices })
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.devices.len()
    }

    /// The devices, in rank order.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }
}
