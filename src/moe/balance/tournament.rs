//! The smallest of a set of keys, one of which changes at a time.
//!
//! A complete binary tree in an array: leaves are the keys, every inner node is the smaller of its two children, so the
//! root is the winner. Replacing a key replays the matches on the way up: log₂ n minima, without branches, each of which
//! waits only for the one before. Keys carry their index in the low half, which both names the winner and decides ties in
//! favour of the first.
//!
//! Loads are finite or +∞ and not negative, so their bits order as they do; adding 0 turns −0, which is a load of nothing,
//! into 0.

/// A load and the index of its bearer as a key: smaller loads first, then smaller indices.
pub(super) fn ascending(load: f32, index: usize) -> u64 {
    u64::from((load + 0.0).to_bits()) << 32 | index as u64
}

/// As [`ascending`], with larger loads first; among equals still the smaller index.
pub(super) fn descending(load: f32, index: usize) -> u64 {
    u64::from(!(load + 0.0).to_bits()) << 32 | index as u64
}

/// The index in a key.
pub(super) fn index(key: u64) -> usize {
    key as u32 as usize
}

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Tournament {
    /// Node `i` has the children `2i` and `2i + 1`; the root is 1. Leaves without a key hold the largest of all.
    nodes: Vec<u64>,
    leaves: usize,
}

impl Tournament {
    /// Room for `most` keys.
    pub(super) fn with_room(most: usize) -> Tournament {
        let leaves = most.next_power_of_two();
        Tournament { nodes: vec![u64::MAX; 2 * leaves], leaves }
    }

    /// Starts afresh with these keys, as many as there is room for.
    pub(super) fn fill(&mut self, keys: impl Iterator<Item = u64>) {
        for (leaf, key) in self.nodes[self.leaves..].iter_mut().zip(keys) {
            *leaf = key;
        }
        for node in (1..self.leaves).rev() {
            self.nodes[node] = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
        }
    }

    /// The index in the smallest key.
    pub(super) fn winner(&self) -> usize {
        index(self.nodes[1])
    }

    /// Gives `leaf` another key.
    pub(super) fn replace(&mut self, leaf: usize, key: u64) {
        let (mut node, mut key) = (self.leaves + leaf, key);
        self.nodes[node] = key;
        while node > 1 {
            key = key.min(self.nodes[node ^ 1]);
            node /= 2;
            self.nodes[node] = key;
        }
    }

    /// Takes `leaf` out of the contest.
    pub(super) fn retire(&mut self, leaf: usize) {
        self.replace(leaf, u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_smallest_wins() {
        let mut tournament = Tournament::with_room(5);
        tournament.fill([3.0, 1.0, 2.0, 1.0, 9.0].iter().enumerate().map(|(i, &load)| ascending(load, i)));
        assert_eq!(tournament.winner(), 1);
        tournament.replace(1, ascending(1.5, 1));
        assert_eq!(tournament.winner(), 3);
        tournament.retire(3);
        tournament.retire(1);
        assert_eq!(tournament.winner(), 2);
        tournament
            .fill([2.0, 4.0, 4.0, f32::INFINITY, 0.0].iter().enumerate().map(|(i, &l)| descending(l, i)));
        assert_eq!(tournament.winner(), 3);
        tournament.replace(3, descending(4.0, 3));
        assert_eq!(tournament.winner(), 1);
    }

    #[test]
    fn one_key_is_a_tournament() {
        let mut tournament = Tournament::with_room(1);
        tournament.fill(std::iter::once(ascending(0.0, 0)));
        tournament.replace(0, ascending(7.0, 0));
        assert_eq!(tournament.winner(), 0);
    }
}
