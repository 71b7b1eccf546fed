//! Where a line of rendered PTX came from.
//!
//! A place is a line of a template file, with the place that included the file or called the macro it stands in. The map
//! gives each line of the PTX its place, so that a ptxas error, an emulator report or a check can name the line a person
//! edits, and say through which caller it got there.
//!
//! The build writes the map as text beside the PTX and the library reads it back when someone asks: one line
//! `files <name> …`, one line `place <file> <line> <parent + 1>` for each place, then the lines of the PTX as
//! `<place + 1> × <count>` runs. Standard library only: `build.rs` includes this file by path.

use std::fmt;

/// A line of a template and what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Index into the map's files.
    pub file: u32,
    /// Line, from 1.
    pub line: u32,
    /// The place of the include or the macro call, if there is one.
    pub parent: Option<u32>,
}

/// The places of every line of one rendered kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineMap {
    files: Vec<String>,
    places: Vec<Place>,
    lines: Vec<Option<u32>>,
}

/// A place spelled out: `ptx/lib/mbarrier.ptx:41 (from ptx/gemm_fp8.ptx:120)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Template file and line, the innermost first, then whoever included or called it.
    pub chain: Vec<(String, u32)>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, (file, line)) in self.chain.iter().enumerate() {
            match depth {
                0 => write!(f, "{file}:{line}")?,
                1 => write!(f, " (from {file}:{line}")?,
                _ => write!(f, ", from {file}:{line}")?,
            }
        }
        if self.chain.len() > 1 { write!(f, ")") } else { Ok(()) }
    }
}

impl LineMap {
    /// A map over `files` and `places`, one entry of `lines` for each line of the PTX.
    pub fn new(files: Vec<String>, places: Vec<Place>, lines: Vec<Option<u32>>) -> Self {
        Self { files, places, lines }
    }

    /// The template files, in the order of their `.file` numbers (the first is 1).
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Lines of the PTX.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether the PTX has no lines.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The place of line `ptx_line` of the PTX, from 1. `None` for lines the renderer added (`.loc`, `.file`).
    pub fn place(&self, ptx_line: usize) -> Option<Place> {
        let place = (*self.lines.get(ptx_line.checked_sub(1)?)?)?;
        self.places.get(place as usize).copied()
    }

    /// The place of line `ptx_line` of the PTX, from 1, with every caller.
    pub fn origin(&self, ptx_line: usize) -> Option<Origin> {
        let mut chain = Vec::new();
        let mut next = self.place(ptx_line);
        // Each parent was interned before its child, so the walk ends; the bound is for a map that was tampered with.
        while let Some(place) = next.filter(|_| chain.len() <= self.places.len()) {
            chain.push((self.files.get(place.file as usize)?.clone(), place.line));
            next = place.parent.and_then(|parent| self.places.get(parent as usize).copied());
        }
        if chain.is_empty() { None } else { Some(Origin { chain }) }
    }

    /// The map as text.
    pub fn encode(&self) -> String {
        use fmt::Write;
        let mut text = String::from("files");
        for file in &self.files {
            write!(text, " {file}").expect("writing to a string");
        }
        for place in &self.places {
            let parent = place.parent.map_or(0, |parent| parent + 1);
            write!(text, "\nplace {} {} {parent}", place.file, place.line).expect("writing to a string");
        }
        text.push_str("\nlines");
        for run in self.lines.chunk_by(|a, b| a == b) {
            let place = run[0].map_or(0, |place| place + 1);
            write!(text, " {place}x{}", run.len()).expect("writing to a string");
        }
        text
    }

    /// The map back from [`LineMap::encode`]'s text; what cannot be read is left out.
    pub fn decode(text: &str) -> Self {
        let mut map = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            match words.next() {
                Some("files") => map.files = words.map(str::to_owned).collect(),
                Some("place") => {
                    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
                    let (file, line, parent) = (number(), number(), number());
                    map.places.push(Place { file, line, parent: parent.checked_sub(1) });
                }
                Some("lines") => {
                    for (place, count) in words.filter_map(|run| run.split_once('x')) {
                        let place = place.parse::<u32>().unwrap_or(0).checked_sub(1);
                        let count = count.parse().unwrap_or(0);
                        map.lines.resize(map.lines.len() + count, place);
                    }
                }
                _ => {}
            }
        }
        map
    }
}
