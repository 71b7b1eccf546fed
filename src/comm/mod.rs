//! Several devices that work on one thing: who they are, and memory that all of them see.
//!
//! | type | what |
//! | --- | --- |
//! | [`Team`] | devices of this process, numbered by rank, with peer access |
//! | [`SymmetricBuffer`] | the same number of bytes on every rank of a team |
//! | [`Window`] | one rank's view of such memory: its own, and a plain pointer to everybody else's |
//! | [`Partition`] | a budget of SMs for computing and one for communicating |
//! | [`PeerHandles`] | the seam to other processes and other engines: whoever can exchange handles makes windows |
//!
//! There is no transport here. Kernels see base pointers, one for each rank, and load and store through them; how those pointers came
//! about (peer access in one process, CUDA IPC, fabric handles, an NCCL or NVSHMEM window) is the business of whoever made the
//! window. An offset means the same on every rank.

mod partition;
mod peers;
mod symmetric;
mod team;
mod window;

pub use partition::{Link, Partition};
pub use peers::PeerHandles;
pub use symmetric::SymmetricBuffer;
pub use team::Team;
pub use window::Window;
