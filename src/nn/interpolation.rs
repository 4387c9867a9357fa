//! Values on a grid resized to another grid, as PyTorch's `interpolate` does it with `align_corners=False` and no antialiasing.
//!
//! A resize of a line is a small matrix, so that a resize of a grid is two products, which have gradients. Used for what
//! was learnt a patch or an offset at a time and must serve other input sizes.

use candle_core::{Device, Result, Tensor};

/// How values between two places are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interpolation {
    /// From the two nearest.
    Bilinear,
    /// From the four nearest, by Keys' cubic (1981) with a = −0.75.
    Bicubic,
}

/// `grid` `[rows · columns, values]`, f32, row by row → the same for `to` (rows, columns).
pub(super) fn resize_grid(
    grid: &Tensor,
    from: (usize, usize),
    to: (usize, usize),
    interpolation: Interpolation,
) -> Result<Tensor> {
    let (values, device) = (grid.dim(1)?, grid.device());
    let down = interpolation.matrix(from.0, to.0, device)?;
    let across = interpolation.matrix(from.1, to.1, device)?;
    let rows = down.matmul(&grid.contiguous()?.reshape((from.0, from.1 * values))?)?; // [rows, old columns · values]
    across
        .broadcast_left(to.0)?
        .contiguous()?
        .matmul(&rows.reshape((to.0, from.1, values))?)? // [rows, columns, values]
        .reshape((to.0 * to.1, values))
}

impl Interpolation {
    /// `[new, old]`: what each new place takes from each old one.
    fn matrix(self, old: usize, new: usize, device: &Device) -> Result<Tensor> {
        let mut weights = vec![0f32; new * old];
        let scale = old as f32 / new as f32;
        for (index, row) in weights.chunks_exact_mut(old).enumerate() {
            let place = (index as f32 + 0.5) * scale - 0.5;
            match self {
                Self::Bilinear => {
                    let place = place.max(0.0);
                    let low = (place as usize).min(old - 1);
                    let share = place - low as f32;
                    row[low] += 1.0 - share;
                    row[(low + 1).min(old - 1)] += share;
                }
                Self::Bicubic => {
                    let low = place.floor();
                    let share = place - low;
                    for (offset, weight) in cubic(share).into_iter().enumerate() {
                        // Beyond the border the outermost value goes on.
                        let at = (low as isize + offset as isize - 1).clamp(0, old as isize - 1);
                        row[at as usize] += weight;
                    }
                }
            }
        }
        Tensor::from_vec(weights, (new, old), device)
    }
}

/// The weights of the places −1, 0, 1 and 2 for a point `share` behind place 0.
fn cubic(share: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(share + 1.0), near(share), near(1.0 - share), far(2.0 - share)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resized(values: &[f32], new: usize, interpolation: Interpolation) -> Vec<f32> {
        let line = Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).expect("a tensor");
        let resized = resize_grid(&line, (values.len(), 1), (new, 1), interpolation);
        resized.and_then(|line| line.flatten_all()?.to_vec1()).expect("values")
    }

    /// torch 2.13: `interpolate(tensor([[[[0., 1, 4, 9]]]]), size=(1, 6), mode=…)`.
    #[test]
    fn a_line_is_resized_as_pytorch_does_it() {
        let line = [0.0, 1.0, 4.0, 9.0];
        let near = |found: &[f32], want: &[f32]| {
            let close = found.iter().zip(want).all(|(found, want)| (found - want).abs() < 1e-5);
            assert!(close && found.len() == want.len(), "{found:?}, wanted {want:?}");
        };
        near(&resized(&line, 6, Interpolation::Bilinear), &BILINEAR);
        near(&resized(&line, 6, Interpolation::Bicubic), &BICUBIC);
        near(&resized(&line, 4, Interpolation::Bicubic), &line);
    }
    const BILINEAR: [f32; 6] = [0.0, 0.5, 1.5, 3.5, 6.5, 9.0];
    const BICUBIC: [f32; 6] = [-0.086_806, 0.218_75, 1.430_555, 3.152_778, 6.781_25, 9.434_029];
}
