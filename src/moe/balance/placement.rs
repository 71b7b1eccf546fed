//! Where everything went: maps in both directions, and how even it is.
//!
//! The map from logical to physical experts is ragged, because experts have different numbers of replicas. It is kept as
//! offsets and a list, which wastes nothing, is as long for every layer, and can be uploaded as it is;
//! [`Placement::logical_to_physical_padded`] gives the rectangle that other engines use.

use super::plan::{Shape, check_loads};
use crate::error::Result;

/// The placement of every layer's experts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Placement {
    pub(super) shape: Shape,
    pub(super) physical_to_logical: Vec<u32>,
    pub(super) logical_to_physical: Vec<u32>,
    pub(super) offsets: Vec<u32>,
    pub(super) counts: Vec<u32>,
}

/// The map from logical to physical experts as a rectangle.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PaddedMap {
    /// The largest number of replicas any expert of any layer has.
    pub width: usize,
    /// `[layers, experts, width]`, row-major: slots, then −1.
    pub slots: Vec<i32>,
}

impl Placement {
    /// The sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The logical expert in each slot: `[layers, replicas]`. GPU `g` holds slots `g * s` to `(g + 1) * s`, where `s` is
    /// [`Placement::slots_per_gpu`].
    pub fn physical_to_logical(&self) -> &[u32] {
        &self.physical_to_logical
    }

    /// The slots of each logical expert, expert after expert: `[layers, replicas]`. Expert `e` of a layer has those from
    /// `offsets[e]` to `offsets[e + 1]` of the layer's row; see [`Placement::logical_offsets`].
    pub fn logical_to_physical(&self) -> &[u32] {
        &self.logical_to_physical
    }

    /// Where each expert's slots begin in its layer's row of [`Placement::logical_to_physical`], and where the last ends:
    /// `[layers, experts + 1]`.
    pub fn logical_offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// How many replicas each logical expert has, at least 1: `[layers, experts]`.
    pub fn replica_counts(&self) -> &[u32] {
        &self.counts
    }

    /// The slots of one logical expert, in the order in which its replicas were made. `None` if there is no such layer or
    /// expert.
    pub fn replicas_of(&self, layer: usize, expert: usize) -> Option<&[u32]> {
        if layer >= self.shape.layers() || expert >= self.shape.experts() {
            return None;
        }
        let offsets = &self.offsets[layer * (self.shape.experts() + 1)..];
        let row = &self.logical_to_physical[layer * self.shape.replicas()..];
        Some(&row[offsets[expert] as usize..offsets[expert + 1] as usize])
    }

    /// The map from logical to physical experts in the layout of the original: `[layers, experts, width]`, where `width` is
    /// the largest replica count and missing replicas are −1.
    pub fn logical_to_physical_padded(&self) -> PaddedMap {
        let width = self.counts.iter().copied().max().unwrap_or(0) as usize;
        let mut slots = vec![-1; self.counts.len() * width];
        let mut all = self.logical_to_physical.iter();
        for (row, &count) in slots.chunks_exact_mut(width.max(1)).zip(&self.counts) {
            for (to, &slot) in row.iter_mut().zip(all.by_ref().take(count as usize)) {
                *to = slot as i32;
            }
        }
        PaddedMap { width, slots }
    }

    /// Slots each GPU has in each layer.
    pub fn slots_per_gpu(&self) -> usize {
        self.shape.replicas() / self.shape.gpus()
    }

    /// What each GPU carries if these are the loads and replicas share theirs evenly: `[layers, gpus]`, in the unit of
    /// `loads`, `[layers, experts]`. The loads need not be those of the run.
    ///
    /// # Errors
    ///
    /// As [`Plan::run`](super::Plan::run).
    pub fn gpu_loads(&self, loads: &[f32]) -> Result<Vec<f64>> {
        check_loads(self.shape, loads)?;
        let (experts, gpus) = (self.shape.experts(), self.shape.gpus());
        let mut sums = Vec::with_capacity(self.shape.layers() * gpus);
        for (at, slots) in self.physical_to_logical.chunks_exact(self.slots_per_gpu()).enumerate() {
            let first = at / gpus * experts;
            let share = |&expert: &u32| {
                let expert = first + expert as usize;
                f64::from(loads[expert]) / f64::from(self.counts[expert])
            };
            sums.push(slots.iter().map(share).sum());
        }
        Ok(sums)
    }

    /// The busiest GPU's load over the mean, for each layer: `[layers]`. 1 is perfect; a layer without load is perfect.
    ///
    /// # Errors
    ///
    /// As [`Plan::run`](super::Plan::run).
    pub fn imbalance(&self, loads: &[f32]) -> Result<Vec<f64>> {
        let sums = self.gpu_loads(loads)?;
        let ratio = |sums: &[f64]| {
            let total: f64 = sums.iter().sum();
            let largest = sums.iter().copied().fold(0.0, f64::max);
            if total > 0.0 { largest * sums.len() as f64 / total } else { 1.0 }
        };
        Ok(sums.chunks_exact(self.shape.gpus()).map(ratio).collect())
    }
}
