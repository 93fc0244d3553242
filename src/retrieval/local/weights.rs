//! A model's numbers, from a file in the safetensors format.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

/// The tensors of a file. Errors are short phrases.
pub struct Weights<'a>(SafeTensors<'a>);

impl<'a> Weights<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        SafeTensors::deserialize(bytes).map(Self).map_err(|error| format!("it cannot be read: {error}"))
    }

    /// Returns the numbers of a tensor, row by row; it must have this shape. Files of other BERT variants prefix every
    /// name with `bert.`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let tensor = self.0.tensor(name).or_else(|_| self.0.tensor(&format!("bert.{name}")));
        let tensor = tensor.map_err(|_| format!("it has no tensor {name}"))?;
        if tensor.shape() != shape {
            return Err(format!("{name} has the shape {:?}, but config.json says {shape:?}", tensor.shape()));
        }
        let numbers: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => words(tensor.data()).map(f32::from_le_bytes).collect(),
            Dtype::F16 => words(tensor.data()).map(|word| f16::from_le_bytes(word).to_f32()).collect(),
            Dtype::BF16 => words(tensor.data()).map(|word| bf16::from_le_bytes(word).to_f32()).collect(),
            other => return Err(format!("{name} holds {other}, not F32, F16 or BF16")),
        };
        match numbers.iter().all(|number| number.is_finite()) {
            true => Ok(numbers),
            false => Err(format!("{name} holds something that is not a number")),
        }
    }
}

/// Splits `bytes` into groups of `N`; its length is a multiple of `N`.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
