//! The transformer: token ids → the mean of the tokens' vectors.
//!
//! A matrix has a row for each token. Matrix products, nine tenths of the work, are computed by `ndarray`; the rest is
//! written so that the compiler can vectorize it.

use std::f32::consts::FRAC_1_SQRT_2;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, Slice, linalg::general_mat_mul};

use super::{model::Config, weights::Weights};

/// A BERT model: embedding tables for tokens and positions, then layers.
pub struct Bert {
    tokens: Array2<f32>,
    /// The vector of token type 0 is added to each; no other type occurs here.
    positions: Array2<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// x → weight · x + bias
struct Linear {
    /// Outputs × inputs.
    weight: Array2<f32>,
    bias: Array1<f32>,
}

/// Layer normalization: mean 0 and variance 1, then a scale and a shift for each number.
struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f32,
}

impl Bert {
    /// Reads the weights; returns an error if a shape differs from `config`.
    pub fn read(weights: &Weights<'_>, config: &Config) -> Result<Self, String> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let table = |weights: &Weights<'_>, name: &str, rows| {
            matrix(weights, &format!("embeddings.{name}_embeddings.weight"), [rows, width])
        };
        let tokens = table(weights, "word", config.vocab_size)?;
        let mut positions = table(weights, "position", config.max_position_embeddings)?;
        positions += &table(weights, "token_type", config.type_vocab_size)?.row(0);

        let norm = |weights: &Weights<'_>, name: &str| -> Result<Norm, String> {
            let read = |what| weights.tensor(&format!("{name}.LayerNorm.{what}"), &[width]);
            Ok(Norm { scale: read("weight")?, shift: read("bias")?, epsilon: config.layer_norm_eps })
        };
        let layer = |index: usize| -> Result<Layer, String> {
            let name = |part: &str| format!("encoder.layer.{index}.{part}");
            let linear = |part: &str, outputs, inputs| Linear::read(weights, &name(part), outputs, inputs);
            Ok(Layer {
                query: linear("attention.self.query", width, width)?,
                key: linear("attention.self.key", width, width)?,
                value: linear("attention.self.value", width, width)?,
                attention: linear("attention.output.dense", width, width)?,
                up: linear("intermediate.dense", inner, width)?,
                down: linear("output.dense", width, inner)?,
                attention_norm: norm(weights, &name("attention.output"))?,
                norm: norm(weights, &name("output"))?,
            })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        let norm = norm(weights, "embeddings")?;
        Ok(Self { tokens, positions, norm, layers, heads: config.num_attention_heads })
    }

    /// Returns the mean of the vectors of `tokens`; `None` if there are no tokens, more than there are positions, or an
    /// unknown one.
    pub fn mean(&self, tokens: &[u32]) -> Option<Vec<f32>> {
        let known = tokens.iter().all(|&token| (token as usize) < self.tokens.nrows());
        if !known || tokens.len() > self.positions.nrows() {
            return None;
        }
        let mut x = self.positions.slice_axis(Axis(0), Slice::from(..tokens.len())).to_owned();
        for (mut row, &token) in x.outer_iter_mut().zip(tokens) {
            row += &self.tokens.row(token as usize);
        }
        self.norm.apply(&mut x);
        for layer in &self.layers {
            layer.apply(&mut x, self.heads);
        }
        Some(x.mean_axis(Axis(0))?.to_vec())
    }
}

impl Layer {
    fn apply(&self, x: &mut Array2<f32>, heads: usize) {
        let (query, key, value) = (self.query.of(x), self.key.of(x), self.value.of(x));
        let mut mixed = Array2::zeros(x.raw_dim());
        let width = x.ncols() / heads;
        for head in 0..heads {
            let (columns, part) = (Axis(1), Slice::from(head * width..(head + 1) * width));
            let [query, key, value] = [&query, &key, &value].map(|x| x.slice_axis(columns, part));
            attend(query, key, value, mixed.slice_axis_mut(columns, part));
        }
        *x += &self.attention.of(&mixed);
        self.attention_norm.apply(x);

        let mut inner = self.up.of(x);
        inner.mapv_inplace(gelu);
        *x += &self.down.of(&inner);
        self.norm.apply(x);
    }
}

impl Linear {
    fn read(weights: &Weights<'_>, name: &str, outputs: usize, inputs: usize) -> Result<Self, String> {
        let weight = matrix(weights, &format!("{name}.weight"), [outputs, inputs])?;
        Ok(Self { weight, bias: weights.tensor(&format!("{name}.bias"), &[outputs])?.into() })
    }

    fn of(&self, x: &Array2<f32>) -> Array2<f32> {
        let mut y = Array2::zeros([x.nrows(), self.bias.len()]);
        y += &self.bias;
        general_mat_mul(1.0, x, &self.weight.t(), 1.0, &mut y);
        y
    }
}

impl Norm {
    fn apply(&self, x: &mut Array2<f32>) {
        let width = x.ncols() as f32;
        for mut row in x.outer_iter_mut() {
            row -= row.sum() / width;
            let variance = row.dot(&row) / width;
            row /= (variance + self.epsilon).sqrt();
            for ((number, scale), shift) in row.iter_mut().zip(&self.scale).zip(&self.shift) {
                *number = *number * scale + shift;
            }
        }
    }
}

fn matrix(weights: &Weights<'_>, name: &str, shape: [usize; 2]) -> Result<Array2<f32>, String> {
    let numbers = weights.tensor(name, &shape)?;
    Array2::from_shape_vec(shape, numbers).map_err(|error| error.to_string())
}

/// One attention head: every token's row becomes a weighted sum of the rows of `value`, weighted by the match of its
/// row of `query` with those of `key`.
fn attend(query: ArrayView2<f32>, key: ArrayView2<f32>, value: ArrayView2<f32>, mut mixed: ArrayViewMut2<f32>) {
    let mut fit = Array2::zeros([query.nrows(), key.nrows()]);
    general_mat_mul((query.ncols() as f32).sqrt().recip(), &query, &key.t(), 0.0, &mut fit);
    for mut row in fit.outer_iter_mut() {
        // Subtracting the maximum keeps `exp` from overflowing.
        let highest = row.fold(f32::NEG_INFINITY, |highest, &number| highest.max(number));
        row.mapv_inplace(|number| exp(number - highest));
        row /= row.sum();
    }
    general_mat_mul(1.0, &fit, &value, 0.0, &mut mixed);
}

/// `x` times the cumulative distribution function of the standard normal distribution.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// The error function, to 3e-7: formula 7.1.26 in Abramowitz and Stegun's Handbook of Mathematical Functions.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let sum = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_8) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    (1.0 - sum * exp(-x * x)).copysign(x)
}

/// e to the power of `x`, for `x` up to 88, with a relative error of 2e-7; values below -64 are treated as -64: the
/// difference is negligible, and processors are slow with subnormal floats.
///
/// Vectorizable, unlike the standard library's.
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// The natural logarithm of 2 in two parts; the first has few enough bits that its product with a whole number is
    /// exact.
    const LN_2: (f32, f32) = (355.0 / 512.0, (std::f64::consts::LN_2 - 355.0 / 512.0) as f32);
    let x = x.max(-64.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let rest = x - whole * LN_2.0 - whole * LN_2.1;
    // The first terms of the series; `rest` is at most 0.35.
    let mut series = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * rest + factor;
    }
    // Two to the power of `whole`: its bits as a float's exponent.
    series * f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_erf_are_exact_enough() {
        for step in -6400..=8800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2e-7, "exp({x}) is not {}", exp(x));
        }
        assert!(exp(-1e9) < 2e-28 && exp(f32::NEG_INFINITY) < 2e-28);
        // Values from a table.
        for (x, exact) in [(0.0, 0.0), (0.1, 0.112_462_92), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3)]
        {
            assert!((erf(x) - exact).abs() < 3e-7 && (erf(-x) + exact).abs() < 3e-7, "erf({x}) is not {}", erf(x));
        }
        assert_eq!([erf(9.0), erf(-40.0), gelu(1e6)], [1.0, -1.0, 1e6]);
    }
}
