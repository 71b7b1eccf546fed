//! Fat binaries: what nvcc puts into a program. A container of entries, one for each chip and kind, of which the emulator wants
//! the PTX.
//!
//! The layout is in no manual; it is known from open tools that read it (cuda-fatbin-decompression, Cricket, ZLUDA). All numbers
//! are little-endian:
//!
//! | container | | entry | |
//! | --- | --- | --- | --- |
//! | 0 | magic number | 0 | kind: 1 PTX, 2 machine code (2 bytes) |
//! | 6 | bytes of this header (2 bytes) | 4 | bytes of this header (4 bytes) |
//! | 8 | bytes of the entries (8 bytes) | 8 | bytes of the payload, padded (8 bytes) |
//! | | | 16 | bytes of the compressed payload, or 0 (4 bytes) |
//! | | | 28 | architecture, as 90 (4 bytes) |
//! | | | 56 | bytes of the payload once expanded (8 bytes) |
//!
//! A compressed payload is a zstd frame or, from older compilers and `-compress-mode speed`, an LZ4 block.

use std::io::Read;

use crate::abi::In;
use crate::error::{Code, Error, Result};

pub const MAGIC: [u8; 4] = 0xba55_ed50u32.to_le_bytes();
const ZSTD: [u8; 4] = 0xfd2f_b528u32.to_le_bytes();
const CONTAINER_HEADER: usize = 16;
const PTX: u64 = 1;
/// The emulated chip.
const ARCHITECTURE: u64 = 90;
/// More PTX than anybody's; a damaged length is not believed.
const LARGEST: u64 = 1 << 30;

/// The PTX for the newest architecture that the emulated chip can run.
pub fn ptx(image: In<u8>) -> Result<String> {
    let header = image.slice(CONTAINER_HEADER)?;
    let (start, length) = (number(header, 6, 2)? as usize, number(header, 8, 8)?);
    if start < CONTAINER_HEADER || length > LARGEST {
        return Err(damaged());
    }
    let mut rest = &image.slice(start + length as usize)?[start..];
    let mut best = None;
    while !rest.is_empty() {
        let entry = Entry::read(rest)?;
        let newer = best.as_ref().is_none_or(|best: &Entry| best.architecture < entry.architecture);
        rest = entry.rest;
        if entry.kind == PTX && entry.architecture <= ARCHITECTURE && newer {
            best = Some(entry);
        }
    }
    let best = best.ok_or_else(|| {
        Error::new(
            Code::NoBinary,
            "a fat binary without PTX for 9.0: have it made by nvcc -gencode arch=compute_90a,code=compute_90a",
        )
    })?;
    let mut text = best.expand()?;
    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
    String::from_utf8(text)
        .map_err(|error| Error::new(Code::InvalidPtx, format!("a fat binary's PTX: {error}")))
}

struct Entry<'a> {
    kind: u64,
    architecture: u64,
    /// The compressed payload, and its length once expanded; or the payload.
    payload: &'a [u8],
    expanded: Option<usize>,
    /// The entries behind this one.
    rest: &'a [u8],
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8]) -> Result<Entry<'a>> {
        let (start, padded) = (number(bytes, 4, 4)? as usize, number(bytes, 8, 8)? as usize);
        let (compressed, expanded) = (number(bytes, 16, 4)? as usize, number(bytes, 56, 8)?);
        let (_, body) = bytes.split_at_checked(start).filter(|_| start > 0).ok_or_else(damaged)?;
        let (payload, rest) = body.split_at_checked(padded).ok_or_else(damaged)?;
        if expanded > LARGEST || compressed > payload.len() {
            return Err(damaged());
        }
        Ok(Entry {
            kind: number(bytes, 0, 2)?,
            architecture: number(bytes, 28, 4)?,
            payload: if compressed > 0 { &payload[..compressed] } else { payload },
            expanded: (compressed > 0).then_some(expanded as usize),
            rest,
        })
    }

    fn expand(&self) -> Result<Vec<u8>> {
        let Some(length) = self.expanded else { return Ok(self.payload.to_vec()) };
        if !self.payload.starts_with(&ZSTD) {
            return lz4_flex::block::decompress(self.payload, length).map_err(|_| damaged());
        }
        let mut text = Vec::with_capacity(length);
        let frame = ruzstd::decoding::StreamingDecoder::new(self.payload).map_err(|_| damaged())?;
        frame.take(length as u64).read_to_end(&mut text).map_err(|_| damaged())?;
        Ok(text)
    }
}

fn number(bytes: &[u8], at: usize, count: usize) -> Result<u64> {
    let digits = bytes.get(at..at + count).ok_or_else(damaged)?;
    Ok(digits.iter().rev().fold(0, |value, byte| value << 8 | *byte as u64))
}

fn damaged() -> Error {
    Error::new(Code::NoBinary, "a damaged fat binary")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An entry as nvcc writes it; `expanded` is 0 for one that is not compressed.
    fn entry(kind: u16, architecture: u32, payload: &[u8], expanded: usize) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        let padded = payload.len().next_multiple_of(8);
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&64u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
        if expanded > 0 {
            bytes[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        }
        bytes[28..32].copy_from_slice(&architecture.to_le_bytes());
        bytes[56..64].copy_from_slice(&(expanded as u64).to_le_bytes());
        bytes.extend(payload);
        bytes.resize(64 + padded, 0);
        bytes
    }

    fn container(entries: &[Vec<u8>]) -> Vec<u8> {
        let body = entries.concat();
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0, CONTAINER_HEADER as u8, 0]);
        bytes.extend((body.len() as u64).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// A fat binary that holds this PTX.
    pub fn holding(ptx: &str) -> Vec<u8> {
        container(&[entry(1, 90, ptx.as_bytes(), 0)])
    }

    fn read(bytes: &[u8]) -> Result<String> {
        ptx(In::of(&bytes[0]))
    }

    #[test]
    fn the_newest_ptx_that_the_chip_can_run_is_taken() {
        let all = [
            entry(1, 80, b"old", 0),
            entry(1, 90, b"right", 0),
            entry(2, 90, b"code", 0),
            entry(1, 100, b"new", 0),
        ];
        assert_eq!(read(&container(&all)).unwrap(), "right");
        let error = read(&container(&all[2..])).unwrap_err();
        assert!(error.code == Code::NoBinary && error.detail.contains("compute_90a"), "{error:?}");
    }

    #[test]
    fn both_compressions_are_undone() {
        // A frame of one segment (its length in one byte) with one raw block: length 8, times 8, plus 1 for the last.
        let mut zstd = ZSTD.to_vec();
        zstd.extend([0x20, 8, 8 << 3 | 1, 0, 0]);
        zstd.extend(b".version");
        assert_eq!(read(&container(&[entry(1, 90, &zstd, 8)])).unwrap(), ".version");
        // One literal, then seven bytes from one back (four more than three), then five literals.
        let lz4 = [0x13, b'a', 1, 0, 0x50, b'b', b'c', b'd', b'e', b'f'];
        assert_eq!(read(&container(&[entry(1, 90, &lz4, 13)])).unwrap(), "aaaaaaaabcdef");
    }

    #[test]
    fn damage_is_said() {
        let whole = holding("text");
        for at in 6..64 {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x80;
            // Lengths of the container lead outside the memory that a caller vouches for.
            if !(6..16).contains(&at) {
                let _ = read(&bytes);
            }
        }
        let mut bytes = whole;
        bytes[16 + 4] = 0;
        assert_eq!(read(&bytes).unwrap_err().detail, "a damaged fat binary");
    }
}
