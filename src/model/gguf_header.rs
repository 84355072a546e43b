//! The header of a GGUF file, with what candle takes on trust: that the alignment can be divided by, that every tensor lies within
//! the file, where it may and by itself, and that no name stands for two things.

use super::gguf_metadata::Metadata;
use crate::error::{Error, Result};
use candle_core::quantized::gguf_file::Content;
use std::io::Cursor;
use std::path::Path;

/// Tensors begin at multiples of this in a file that does not say.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Arrays in arrays deeper than this are refused, as candle does.
const MOST_DEPTH: usize = 64;

/// Reads the header of a file and checks where it says that the tensors are.
///
/// # Errors
/// Not a GGUF file, cut short or damaged, or one of several parts of a model.
pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Content> {
    let wrong = |message: String| Error::format(path, message);
    if !bytes.starts_with(b"GGUF") {
        return Err(wrong("not a GGUF file: it does not start with the letters GGUF".into()));
    }
    // A header that cannot be walked through is left to candle, which says what is wrong with it.
    let outline = Outline::of(bytes);
    let alignment = match &outline {
        Some(Outline { alignment, .. }) => {
            alignment.map_err(|what| wrong(format!("general.alignment is {what}; the file is damaged")))?
        }
        None => DEFAULT_ALIGNMENT,
    };
    let content = Content::read(&mut Cursor::new(bytes)).map_err(|error| wrong(unread(&Error::from(error).to_string())))?;
    if let Some(Outline { tensors, fields, .. }) = outline {
        let twice = |what: &str| wrong(format!("two of its {what} have the same name; the file is damaged"));
        if tensors != content.tensor_infos.len() as u64 {
            return Err(twice("tensors"));
        }
        if fields != content.metadata.len() as u64 {
            return Err(twice("fields of metadata"));
        }
    }
    if let Some(parts) = (Metadata { map: &content.metadata, path }).integer("split.count")?.filter(|parts| *parts > 1) {
        return Err(wrong(format!(
            "it is one of the {parts} parts of a model; put them together with llama.cpp's \"llama-gguf-split --merge\""
        )));
    }
    check_places(&content, alignment, bytes.len()).map_err(wrong)?;
    Ok(content)
}

/// What candle's error means for the file.
fn unread(error: &str) -> String {
    // Numbers that ggml does not have come of damaged headers.
    match error.rsplit_once("unknown dtype for tensor ").and_then(|(_, kind)| kind.parse::<u8>().ok()).filter(|kind| *kind < 64) {
        Some(kind) => format!(
            "tensors of ggml's type {kind} are not supported (16 to 23 and 29 are the IQ kinds); take the model in F16, BF16, Q8_0, \
             Q4_0 to Q5_1 or a K kind such as Q4_K_M"
        ),
        None => format!("the file is cut short, damaged or of a kind that is not supported ({error}); download it again"),
    }
}

/// Whether every tensor begins where the alignment lets it, and none lies on another.
fn check_places(content: &Content, alignment: u64, file_len: usize) -> std::result::Result<(), String> {
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort_unstable();
    let mut places = Vec::new();
    for name in names {
        let (start, end) = extent(content, name, file_len)?;
        let offset = content.tensor_infos.get(name).map_or(0, |info| info.offset);
        if !offset.is_multiple_of(alignment) {
            return Err(format!("tensor {name} begins at {offset}, which is no multiple of {alignment}; the file is damaged"));
        }
        places.push((start, end, name));
    }
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(format!("tensors {} and {} lie on each other; the file is damaged", pair[0].2, pair[1].2)),
        None => Ok(()),
    }
}

/// Where a tensor's bytes are in the file.
pub(super) fn extent(content: &Content, name: &str, file_len: usize) -> std::result::Result<(usize, usize), String> {
    let info = content.tensor_infos.get(name).ok_or_else(|| format!("tensor {name} is missing"))?;
    let dims = info.shape.dims();
    let block = info.ggml_dtype.block_size();
    let elements = dims.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    let size = elements.and_then(|n| (n / block).checked_mul(info.ggml_dtype.type_size()));
    let start = usize::try_from(content.tensor_data_offset.saturating_add(info.offset)).ok();
    let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => {
            if dims.is_empty() || !dims[dims.len() - 1].is_multiple_of(block) {
                return Err(format!(
                    "tensor {name}: shape {dims:?} does not fit {:?}, which stores {block} at a time",
                    info.ggml_dtype
                ));
            }
            Ok((start, end))
        }
        _ => Err(format!(
            "tensor {name} reaches beyond the end of the file ({file_len} bytes): it is cut short; download it again"
        )),
    }
}

/// What is looked up in a header before candle reads it.
struct Outline {
    /// The number of tensors that it promises.
    tensors: u64,
    /// The number of fields of metadata that it promises.
    fields: u64,
    /// What tensors begin at multiples of; else what stands there instead.
    alignment: std::result::Result<u64, &'static str>,
}

impl Outline {
    /// Walks through the metadata; none where it ends too early or has a kind of value that there is not.
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut walk = Walk { bytes, at: 4, wide: true };
        let version = walk.u32()?;
        walk.wide = version != 1;
        let (tensors, fields) = (walk.length()?, walk.length()?);
        let mut alignment = Ok(DEFAULT_ALIGNMENT);
        for _ in 0..fields {
            let length = walk.length()?;
            let mut key = walk.take(length)?;
            // candle reads texts without the zeros at their end.
            while let [rest @ .., 0] = key {
                key = rest;
            }
            let kind = walk.u32()?;
            if key == b"general.alignment" {
                alignment = walk.alignment(kind)?;
            } else {
                walk.skip(kind, 0)?;
            }
        }
        Some(Self { tensors, fields, alignment })
    }
}

/// A place in a header.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether lengths have 8 bytes, not 4 as in the first version.
    wide: bool,
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self, width: u64) -> Option<u64> {
        Some(self.take(width)?.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.number(4)?).ok()
    }

    fn length(&mut self) -> Option<u64> {
        self.number(if self.wide { 8 } else { 4 })
    }

    /// The value of `general.alignment`.
    fn alignment(&mut self, kind: u32) -> Option<std::result::Result<u64, &'static str>> {
        // The kinds from 0 to 5 are whole numbers of 8 to 32 bits, every other one of them signed; candle divides by them.
        if kind > 5 {
            self.skip(kind, 0)?;
            return Some(Err("no whole number of at most 32 bits"));
        }
        let width = width(kind)?;
        let number = self.number(width)?;
        Some(match number {
            0 => Err("0"),
            _ if kind % 2 == 1 && number >> (8 * width - 1) == 1 => Err("negative"),
            number => Ok(number),
        })
    }

    /// Goes over a value.
    fn skip(&mut self, kind: u32, depth: usize) -> Option<()> {
        const TEXT: u32 = 8;
        const ARRAY: u32 = 9;
        match kind {
            _ if depth > MOST_DEPTH => None,
            TEXT => {
                let length = self.length()?;
                self.take(length).map(|_| ())
            }
            ARRAY => {
                let (kind, count) = (self.u32()?, self.length()?);
                match width(kind) {
                    Some(width) => self.take(count.checked_mul(width)?).map(|_| ()),
                    None => (0..count).try_for_each(|_| self.skip(kind, depth + 1)),
                }
            }
            kind => {
                let width = width(kind)?;
                self.take(width).map(|_| ())
            }
        }
    }
}

/// The bytes of a value of a kind that has always as many.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &kind.to_le_bytes(), value].concat()
    }

    fn header(fields: &[Vec<u8>]) -> Vec<u8> {
        let counts = [0u64.to_le_bytes(), (fields.len() as u64).to_le_bytes()].concat();
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &counts, &fields.concat()].concat()
    }

    fn message(fields: &[Vec<u8>]) -> String {
        read(&header(fields), Path::new("x.gguf")).err().map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn an_alignment_that_nothing_can_have_is_refused_wherever_it_stands() {
        // Longer than any part of the file that could be looked through for the key.
        let long = field("general.name", 8, &[&(2u64 << 20).to_le_bytes()[..], &vec![b'x'; 2 << 20]].concat());
        for kind in 0..6 {
            let zero = field("general.alignment", kind, &vec![0; width(kind).unwrap() as usize]);
            assert!(message(&[long.clone(), zero]).contains("general.alignment is 0"), "{kind}");
        }
        assert!(message(&[field("general.alignment\0", 4, &[0; 4])]).contains("general.alignment is 0"));
        assert!(message(&[field("general.alignment", 5, &[0xff; 4])]).contains("is negative"));
        assert!(message(&[field("general.alignment", 8, &[&1u64.to_le_bytes()[..], b"x"].concat())]).contains("no whole number"));
        assert_eq!(message(&[field("general.alignment", 4, &64u32.to_le_bytes())]), "");
        // The key as a part of a text is none.
        let text = b"general.alignment\x04\0\0\0\0\0\0\0";
        assert_eq!(message(&[field("note", 8, &[&(text.len() as u64).to_le_bytes()[..], text].concat())]), "");
        // After arrays of texts and of arrays, of which the end has to be found.
        let texts = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &1u64.to_le_bytes(), b"a", &0u64.to_le_bytes()].concat();
        let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &texts].concat();
        let zero = field("general.alignment", 4, &[0; 4]);
        assert!(message(&[field("a", 9, &texts), field("b", 9, &nested), zero]).contains("general.alignment is 0"));
    }

    #[test]
    fn names_that_stand_for_two_things_are_refused() {
        let one = field("a", 0, &[1]);
        assert!(message(&[one.clone(), one]).contains("two of its fields of metadata have the same name"));
    }

    #[test]
    fn a_part_of_a_model_says_that_it_is_one() {
        let found = message(&[field("split.count", 2, &3u16.to_le_bytes())]);
        assert!(found.contains("one of the 3 parts") && found.contains("llama-gguf-split --merge"), "{found}");
    }
}
