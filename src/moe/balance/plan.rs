//! What a placement is asked for: sizes, topology, policy; and the run over all layers.

use super::layer::{Output, Solver};
use super::placement::Placement;
use crate::error::{Error, Result};

/// The sizes of a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    layers: usize,
    experts: usize,
    replicas: usize,
    gpus: usize,
}

impl Shape {
    /// `layers` mixture-of-experts layers of `experts` logical experts each; in each layer `replicas` slots on `gpus` GPUs.
    /// There are at least as many slots as experts, and every GPU has the same number.
    pub const fn new([layers, experts]: [usize; 2], replicas: usize, gpus: usize) -> Shape {
        Shape { layers, experts, replicas, gpus }
    }

    /// Layers, each placed by itself.
    pub const fn layers(&self) -> usize {
        self.layers
    }

    /// Logical experts of a layer.
    pub const fn experts(&self) -> usize {
        self.experts
    }

    /// Physical experts of a layer: slots over all GPUs.
    pub const fn replicas(&self) -> usize {
        self.replicas
    }

    /// GPUs that share a layer.
    pub const fn gpus(&self) -> usize {
        self.gpus
    }
}

/// How freely experts may be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Hierarchical if the number of groups is a multiple of the number of nodes, else global.
    #[default]
    Auto,
    /// Every replica of a group's experts on the same node. Groups are a multiple of nodes, experts of groups and GPUs of
    /// nodes.
    Hierarchical,
    /// Any expert on any GPU; groups and nodes play no part.
    Global,
}

/// The topology a placement has to respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    groups: usize,
    nodes: usize,
    policy: Policy,
}

impl Options {
    /// One group, one node, [`Policy::Auto`].
    pub const fn new() -> Options {
        Options { groups: 1, nodes: 1, policy: Policy::Auto }
    }

    /// Groups of consecutive experts among which the gate chooses first (`n_group`; 8 in DeepSeek-V3).
    #[must_use]
    pub const fn groups(mut self, groups: usize) -> Options {
        self.groups = groups;
        self
    }

    /// Nodes, within which GPUs reach each other faster than across.
    #[must_use]
    pub const fn nodes(mut self, nodes: usize) -> Options {
        self.nodes = nodes;
        self
    }

    /// Overrules the choice between hierarchical and global.
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Options {
        self.policy = policy;
        self
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

/// A placement problem, checked. Runs any number of times, on new loads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Plan {
    shape: Shape,
    groups: usize,
    nodes: usize,
    policy: Policy,
}

/// Whether a placement of this shape with these options exists.
pub fn supports(shape: Shape, options: Options) -> Result<()> {
    Plan::new(shape, options).map(drop)
}

impl Plan {
    /// Checks that everything divides.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for `shape`, [`Error::Option`] for `groups` and `nodes`, as [`Shape::new`] and [`Policy`] say.
    pub fn new(shape: Shape, options: Options) -> Result<Plan> {
        let Shape { layers, experts, replicas, gpus } = shape;
        let Options { groups, nodes, policy } = options;
        // Slots are numbered in 32 bits, and signed in the padded map.
        let most = i32::MAX as usize;
        if experts == 0 {
            return Err(Error::shape("shape", "at least 1 expert", 0));
        }
        if gpus == 0 {
            return Err(Error::shape("shape", "at least 1 GPU", 0));
        }
        if replicas < experts {
            let got = format_args!("{replicas} replicas of {experts} experts");
            return Err(Error::shape("shape", "at least one replica of each expert", got));
        }
        if replicas % gpus != 0 {
            let expected = format_args!("replicas a multiple of the {gpus} GPUs");
            return Err(Error::shape("shape", expected, format_args!("{replicas} replicas")));
        }
        if layers.max(1).checked_mul(replicas).is_none_or(|slots| slots > most) {
            let got = format_args!("{layers} layers of {replicas}");
            return Err(Error::shape("shape", format_args!("at most {most} replicas in all"), got));
        }
        for (name, value) in [("groups", groups), ("nodes", nodes)] {
            if value == 0 {
                return Err(Error::option(name, "at least 1", 0));
            }
        }
        let policy = match policy {
            Policy::Auto if groups % nodes == 0 => Policy::Hierarchical,
            Policy::Auto => Policy::Global,
            chosen => chosen,
        };
        if policy == Policy::Global {
            return Ok(Plan { shape, groups: 1, nodes: 1, policy });
        }
        if groups % nodes != 0 {
            let expected = format_args!("a multiple of the {nodes} nodes, or the global policy");
            return Err(Error::option("groups", expected, groups));
        }
        if experts % groups != 0 {
            return Err(Error::option("groups", format_args!("a divisor of the {experts} experts"), groups));
        }
        if gpus % nodes != 0 {
            return Err(Error::option("nodes", format_args!("a divisor of the {gpus} GPUs"), nodes));
        }
        Ok(Plan { shape, groups, nodes, policy })
    }

    /// The shape planned for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Hierarchical or global: what [`Policy::Auto`] came to.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Groups that are kept together: 1 under the global policy.
    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    /// Nodes that are told apart: 1 under the global policy.
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Places the experts of every layer.
    ///
    /// `loads` is `[layers, experts]`, row-major: what each logical expert drew, in tokens or any other unit that adds up,
    /// over a window long enough to foretell the next. Up to rounding, only ratios within a layer matter. A layer without
    /// any load is placed like the others.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `loads` has another length, [`Error::Value`] if one is negative, infinite or NaN.
    pub fn run(&self, loads: &[f32]) -> Result<Placement> {
        self.check(loads)?;
        let Shape { layers, experts, replicas, .. } = self.shape;
        let mut physical_to_logical = vec![0; layers * replicas];
        let mut logical_to_physical = vec![0; layers * replicas];
        let mut offsets = vec![0; layers * (experts + 1)];
        let mut counts = vec![0; layers * experts];
        let mut solver = Solver::new(self);
        let layers = loads
            .chunks_exact(experts)
            .zip(physical_to_logical.chunks_exact_mut(replicas))
            .zip(logical_to_physical.chunks_exact_mut(replicas))
            .zip(offsets.chunks_exact_mut(experts + 1))
            .zip(counts.chunks_exact_mut(experts));
        for ((((loads, physical_to_logical), logical_to_physical), offsets), counts) in layers {
            solver.solve(loads, Output { physical_to_logical, logical_to_physical, offsets, counts });
        }
        Ok(Placement { shape: self.shape, physical_to_logical, logical_to_physical, offsets, counts })
    }

    /// Whether `loads` can be placed by this plan.
    pub(super) fn check(&self, loads: &[f32]) -> Result<()> {
        check_loads(self.shape, loads)
    }
}

/// Whether `loads` is `[layers, experts]` and every one of them is a load.
pub(super) fn check_loads(shape: Shape, loads: &[f32]) -> Result<()> {
    let Shape { layers, experts, .. } = shape;
    if loads.len() != layers * experts {
        let expected = format_args!("[{layers}, {experts}]");
        return Err(Error::shape("loads", expected, format_args!("{} elements", loads.len())));
    }
    match loads.iter().position(|load| !(0.0..f32::INFINITY).contains(load)) {
        None => Ok(()),
        Some(at) => {
            let got = format_args!("{} at [{}, {}]", loads[at], at / experts, at % experts);
            Err(Error::value("loads", "finite and not negative", got))
        }
    }
}
