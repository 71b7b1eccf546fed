//! Memory ordering, scopes, proxies.

use super::Space;

/// Memory ordering of an access. `None` on plain instructions is [`Semantics::Weak`].
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Semantics {
    #[default]
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcqRel,
    Sc,
    Volatile,
    Mmio,
}

/// Memory scope.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    #[default]
    None,
    Cta,
    Cluster,
    Gpu,
    Sys,
}

/// Proxy fences.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFence {
    /// `fence.proxy.async[.global|.shared::cta|.shared::cluster]`
    Async(Option<Space>),
    Alias,
    /// `fence.proxy.async::generic.acquire|release.sync_restrict…`
    AsyncGeneric {
        acquire: bool,
    },
    /// `fence.proxy.tensormap::generic.acquire.SCOPE [addr], 128`
    TensorMapAcquire(Scope),
    /// `fence.proxy.tensormap::generic.release.SCOPE`
    TensorMapRelease(Scope),
}
