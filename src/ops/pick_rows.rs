//! Rows of each sample in another order, some left out, some new ones zero: how tokens are put into windows and back, and
//! four neighbours beside each other.

use super::graph::record;
use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// Values one task copies, about.
const PIECE: usize = 32_768;

/// In a list of rows: a row of zeros.
const ZERO: u32 = u32::MAX;

/// Which row of the source each row of the result is. No row is picked twice, so that the way back, which the gradient takes,
/// is of the same kind.
#[derive(Clone, Debug)]
pub struct RowMap {
    there: Arc<[u32]>,
    back: Arc<[u32]>,
}

impl RowMap {
    /// From the source row of each row of the result (`None`: zeros), out of `rows` rows.
    ///
    /// # Errors
    /// If a row is not there, or is picked twice.
    pub fn new(picks: impl IntoIterator<Item = Option<usize>>, rows: usize) -> Result<Self> {
        let mut back = vec![ZERO; rows];
        let mut there = Vec::new();
        for pick in picks {
            if let Some(source) = pick {
                match back.get_mut(source) {
                    Some(place) if *place == ZERO => *place = there.len() as u32,
                    Some(_) => bail!("row {source} is picked twice"),
                    None => bail!("row {source} of {rows} is picked"),
                }
            }
            there.push(pick.map_or(ZERO, |source| source as u32));
        }
        Ok(Self { there: there.into(), back: back.into() })
    }

    /// The way back: rows that were left out become zeros, rows of zeros are left out.
    pub fn inverse(&self) -> Self {
        Self { there: Arc::clone(&self.back), back: Arc::clone(&self.there) }
    }

    /// Rows of the result.
    pub fn rows(&self) -> usize {
        self.there.len()
    }
}

/// `x`, whose values are `[batch, rows, hidden]` in whatever shape, → `[batch, map.rows(), hidden]` in the shape `shape`.
///
/// # Errors
/// If the shapes do not have as many values.
pub fn pick_rows(x: &Tensor, map: &RowMap, hidden: usize, shape: impl Into<Shape>) -> Result<Tensor> {
    let (shape, before) = (shape.into(), x.shape().clone());
    let (rows, picked_rows) = (map.back.len() * hidden, map.rows() * hidden);
    let batch = x.elem_count() / rows.max(1);
    if batch * rows != x.elem_count() || batch * picked_rows != shape.elem_count() {
        bail!("pick_rows: {before:?} to {shape:?} by a map of {} rows to {}", map.back.len(), map.rows())
    }
    timed("pick_rows", x.device(), || {
        let (x, back) = (x.contiguous()?, map.inverse());
        record("pick_rows, backward", [Some(&x)], picked(&x.detach(), map, hidden, &shape)?, move |grad| {
            Ok([Some(picked(&grad.contiguous()?, &back, hidden, &before)?)])
        })
    })
}

fn picked(x: &Tensor, map: &RowMap, hidden: usize, shape: &Shape) -> Result<Tensor> {
    let rows = map.back.len();
    let batch = x.elem_count() / (rows * hidden).max(1);
    if !has_cpu_kernel(x) {
        return composed(&x.reshape((batch, rows, hidden))?, map)?.reshape(shape);
    }
    with_values("pick_rows", [x], |[values]| {
        Tensor::from_vec(copied(values, map, (batch, rows, hidden)), shape, x.device())
    })
}

/// The same from candle's operations: a row of zeros stands behind the others where one is wanted.
fn composed(x: &Tensor, map: &RowMap) -> Result<Tensor> {
    let (batch, rows, hidden) = x.dims3()?;
    let x = x.detach();
    let (x, picks): (Tensor, Vec<u32>) = if map.there.contains(&ZERO) {
        let zeros = Tensor::zeros((batch, 1, hidden), x.dtype(), x.device())?;
        let picks = map.there.iter().map(|pick| if *pick == ZERO { rows as u32 } else { *pick });
        (Tensor::cat(&[&x, &zeros], 1)?, picks.collect())
    } else {
        (x, map.there.to_vec())
    };
    let count = picks.len();
    x.contiguous()?.index_select(&Tensor::from_vec(picks, count, x.device())?, 1)
}

fn copied(x: &[f32], map: &RowMap, (batch, rows, hidden): (usize, usize, usize)) -> Vec<f32> {
    let picks = &map.there;
    let mut out = vec![0f32; batch * picks.len() * hidden];
    let rows_a_piece = (PIECE / hidden.max(1)).max(1);
    out.par_chunks_mut((rows_a_piece * hidden).max(1)).enumerate().for_each(|(piece, out)| {
        for (offset, out) in out.chunks_exact_mut(hidden).enumerate() {
            let place = piece * rows_a_piece + offset;
            let (sample, pick) = (place / picks.len(), picks[place % picks.len()]);
            if pick != ZERO {
                let start = (sample * rows + pick as usize) * hidden;
                out.copy_from_slice(&x[start..start + hidden]);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_leads_back_and_refuses_what_it_could_not_lead_back_from() {
        let map = RowMap::new([Some(2), None, Some(0)], 3).expect("a map");
        let back = map.inverse();
        assert_eq!((map.rows(), back.rows()), (3, 3));
        assert_eq!(back.there[..], [2, ZERO, 0]);
        assert!(RowMap::new([Some(1), Some(1)], 3).is_err(), "twice");
        assert!(RowMap::new([Some(3)], 3).is_err(), "not there");
    }
}
