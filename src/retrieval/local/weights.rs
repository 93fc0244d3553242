//! A model's numbers, from a file in the safetensors format: eight bytes with the length of the header, the header
//! (JSON: name → type, shape and position of each tensor), and the numbers.
//!
//! Parsed by hand, since the format's own crate needs the whole file in memory in addition to the numbers.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde::{Deserialize, de::IgnoredAny};

/// The longest header; that of all-MiniLM-L6-v2 has 11 KB.
const MAX_HEADER: u64 = 1 << 20;
/// Bytes per read.
const PIECE: usize = 1 << 16;

/// Decodes bytes and appends the numbers.
type Decode = fn(&[u8], &mut Vec<f32>);

/// An open file whose header was read. Errors are short phrases.
pub struct Weights {
    file: File,
    tensors: HashMap<String, Tensor>,
    /// The position of the numbers, in bytes from the start of the file.
    begin: u64,
    /// The number of bytes from there to the end.
    room: u64,
}

#[derive(Deserialize)]
struct Header {
    /// Not a tensor.
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    /// Begin and end, in bytes from the position of the numbers.
    data_offsets: (u64, u64),
}

impl Weights {
    pub fn open(path: &Path) -> Result<Self, String> {
        let end = size(path)?;
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        let mut length = [0; 8];
        let cut = |_| "it ends before its header does".to_owned();
        file.read_exact(&mut length).map_err(cut)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(format!("its header would have {length} bytes, so it is no safetensors file"));
        }
        // At most a mebibyte, as checked above.
        let mut header = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact(&mut header).map_err(cut)?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|error| format!("its header cannot be read: {error}"))?;
        let begin = 8 + length;
        Ok(Self { file, tensors: header.tensors, begin, room: end.saturating_sub(begin) })
    }

    /// Reads the numbers of a tensor, row by row; it must have this shape. Files of other BERT variants prefix every
    /// name with `bert.`.
    ///
    /// Allocates no memory before it has checked that the file has that many numbers.
    pub fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let prefixed = format!("bert.{name}");
        let tensor = self.tensors.get(name).or_else(|| self.tensors.get(&prefixed));
        let tensor = tensor.ok_or_else(|| format!("it has no tensor {name}"))?;
        if !tensor.shape.iter().copied().eq(shape.iter().map(|&size| size as u64)) {
            return Err(format!("{name} has the shape {:?}, but config.json says {shape:?}", tensor.shape));
        }
        let (size, decode): (_, Decode) = match tensor.dtype.as_str() {
            "F32" => (4, |bytes, numbers| numbers.extend(words(bytes).map(f32::from_le_bytes))),
            "F16" => (2, |bytes, numbers| numbers.extend(words(bytes).map(u16::from_le_bytes).map(from_f16))),
            "BF16" => (2, |bytes, numbers| numbers.extend(words(bytes).map(u16::from_le_bytes).map(from_bf16))),
            other => return Err(format!("{name} holds {}, not F32, F16 or BF16", other.escape_debug())),
        };

        let count = shape.iter().try_fold(1_u64, |count, &size| count.checked_mul(size as u64));
        let bytes = count.and_then(|count| count.checked_mul(size));
        let (from, to) = tensor.data_offsets;
        if bytes.is_none() || to.checked_sub(from) != bytes {
            return Err(format!("{name} has another number of bytes than its shape says"));
        }
        if to > self.room {
            return Err(format!("it ends before {name} does"));
        }

        let mut left = usize::try_from(to - from).map_err(|_| format!("{name} is too large"))?;
        let mut numbers = Vec::with_capacity(left / size as usize);
        let failed = |error| format!("{name} cannot be read: {error}");
        self.file.seek(SeekFrom::Start(self.begin + from)).map_err(failed)?;
        let mut piece = vec![0; PIECE.min(left)];
        while left > 0 {
            let piece = &mut piece[..PIECE.min(left)];
            self.file.read_exact(piece).map_err(failed)?;
            decode(piece, &mut numbers);
            left -= piece.len();
        }
        match numbers.iter().all(|number| number.is_finite()) {
            true => Ok(numbers),
            false => Err(format!("{name} holds something that is not a number")),
        }
    }
}

/// Returns the size in bytes of a regular file: opening a pipe might block forever.
pub fn size(path: &Path) -> Result<u64, String> {
    let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
    about.is_file().then_some(about.len()).ok_or_else(|| "it is not a file".to_owned())
}

/// Splits `bytes` into groups of `N`; its length is a multiple of `N`.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// One bit for the sign, five for the exponent, ten for the fraction.
fn from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let size = match exponent {
        0 => (fraction as f32 * 2_f32.powi(-24)).to_bits(),
        0x1f => 0xff << 23 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_widened_exactly() {
        for (bits, number) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x83ff, -6.097_555e-5),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(from_f16(bits), number, "{bits:x}");
        }
        assert!(from_f16(0x8000).is_sign_negative());
        assert!(from_f16(0x7e00).is_nan());
        assert_eq!([0x3f80, 0xc049, 0x7f80].map(from_bf16), [1.0, -3.140_625, f32::INFINITY]);
    }
}
