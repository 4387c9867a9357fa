//! Relative position biases computed from the offsets themselves, so that they go on to windows of another size (Liu et al.
//! 2022, "Swin Transformer V2", §3.3).

use super::{Builder, Linear, Parameter, ParameterError, Pass};
use candle_core::{DType, Device, Result, Tensor};

/// Width of the network's one hidden layer.
const INNER: usize = 512;

/// 16 · σ(MLP(offset)) for every offset within a window, a value a head.
#[derive(Clone, Debug)]
pub struct ContinuousPositionBias {
    up: Linear,
    down: Linear,
    /// `[(2 · side − 1)², 2]`: the offsets on a logarithmic scale.
    offsets: Tensor,
}

impl ContinuousPositionBias {
    /// Reads `0.weight`, `0.bias` and `2.weight` at the builder's path, for windows of `side`² tokens and weights that were
    /// trained with windows of `trained_side`².
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        builder: &Builder<'_>,
        heads: usize,
        (side, trained_side): (usize, usize),
        deviation: f32,
    ) -> std::result::Result<Self, ParameterError> {
        let up = Linear::new(&builder.at("0"), 2, INNER, true, deviation)?;
        let down = Linear::new(&builder.at("2"), INNER, heads, false, deviation)?;
        let offsets = offsets(side, trained_side);
        let offsets = Tensor::from_vec(offsets, ((2 * side - 1) * (2 * side - 1), 2), &Device::Cpu)
            .and_then(|offsets| {
                let placement = builder.placement();
                offsets.to_dtype(placement.dtype)?.to_device(&placement.device)
            })
            .map_err(|source| ParameterError::Unreadable { name: "offsets".to_owned(), source })?;
        Ok(Self { up, down, offsets })
    }

    /// The table `[(2 · side − 1)², heads]`, f32.
    ///
    /// # Errors
    /// candle's.
    pub fn table(&self, pass: &Pass) -> Result<Tensor> {
        let inner = self.up.forward(&self.offsets, pass)?.relu()?;
        let table = self.down.forward(&inner, pass)?.to_dtype(DType::F32)?;
        // 16 · σ(x) = 8 + 8 · tanh(x/2), which cannot overflow.
        table.affine(0.5, 0.0)?.tanh()?.affine(8.0, 8.0)
    }

    /// Its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.up.parameters().chain(self.down.parameters())
    }

    /// Its linear maps, in order.
    pub fn linears(&self) -> [&Linear; 2] {
        [&self.up, &self.down]
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> [&mut Linear; 2] {
        [&mut self.up, &mut self.down]
    }
}

/// (dy, dx) of every offset, dy outside: divided by the largest in training, times 8, then sign · log₂(|x| + 1) / log₂ 8.
fn offsets(side: usize, trained_side: usize) -> Vec<f32> {
    let largest = trained_side.saturating_sub(1).max(1) as f32;
    let scaled = |step: usize| {
        let offset = (step as f32 - (side as f32 - 1.0)) / largest * 8.0;
        offset.signum() * (offset.abs() + 1.0).log2() / 3.0
    };
    let steps = 2 * side - 1;
    (0..steps).flat_map(|y| (0..steps).flat_map(move |x| [scaled(y), scaled(x)])).collect()
}
