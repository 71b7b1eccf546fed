//! One bit per byte: was it ever written?

/// The written-bits of a range of bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct InitMap {
    words: Vec<u64>,
}

/// The bits `from..to` of a word, `to` at most 64.
#[inline(always)]
fn bits(from: usize, to: usize) -> u64 {
    let upper = if to == 64 { u64::MAX } else { (1u64 << to) - 1 };
    upper & (u64::MAX << from)
}

impl InitMap {
    /// Nothing written.
    pub(crate) fn new(bytes: usize) -> Self {
        InitMap { words: vec![0; bytes.div_ceil(64)] }
    }

    /// Marks a range as written.
    #[inline]
    pub(crate) fn mark(&mut self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let (first, last) = (offset / 64, (offset + len - 1) / 64);
        if first == last {
            self.words[first] |= bits(offset % 64, offset % 64 + len);
            return;
        }
        self.words[first] |= bits(offset % 64, 64);
        self.words[first + 1..last].fill(u64::MAX);
        self.words[last] |= bits(0, (offset + len - 1) % 64 + 1);
    }

    /// Forgets that a range was written.
    pub(crate) fn clear(&mut self, offset: usize, len: usize) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let stop = ((at / 64 + 1) * 64).min(end);
            self.words[at / 64] &= !bits(at % 64, at % 64 + (stop - at));
            at = stop;
        }
    }

    /// The first byte of a range that was never written.
    #[inline]
    pub(crate) fn first_unwritten(&self, offset: usize, len: usize) -> Option<usize> {
        if len == 0 {
            return None;
        }
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let stop = ((at / 64 + 1) * 64).min(end);
            let want = bits(at % 64, at % 64 + (stop - at));
            let missing = !self.words[at / 64] & want;
            if missing != 0 {
                return Some(at / 64 * 64 + missing.trailing_zeros() as usize);
            }
            at = stop;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_finds_across_words() {
        let mut map = InitMap::new(300);
        assert_eq!(map.first_unwritten(0, 300), Some(0));
        map.mark(0, 70);
        map.mark(71, 200);
        assert_eq!(map.first_unwritten(0, 70), None);
        assert_eq!(map.first_unwritten(0, 300), Some(70));
        map.mark(70, 1);
        assert_eq!(map.first_unwritten(0, 271), None);
        assert_eq!(map.first_unwritten(5, 280), Some(271));
        map.mark(271, 0);
        assert_eq!(map.first_unwritten(271, 1), Some(271));
        map.clear(60, 70);
        assert_eq!(map.first_unwritten(0, 100), Some(60));
        assert_eq!(map.first_unwritten(130, 100), None);
    }
}
