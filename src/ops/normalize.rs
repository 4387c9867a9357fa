//! u8 pixels to the model's input: `[batch, 3, height, width]` f32, scaled and shifted per channel.

use crate::image::Normalization;
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

/// `photos`: each `height × width × 3` levels → `[photos, 3, height, width]` on `device`.
///
/// # Errors
/// If a photo has another size.
pub fn normalize(
    photos: &[&[u8]],
    height: usize,
    width: usize,
    scale: &Normalization,
    device: &Device,
) -> Result<Tensor> {
    let plane = height * width;
    if let Some(photo) = photos.iter().find(|photo| photo.len() != 3 * plane) {
        bail!("normalize: a photo of {} values, {height} × {width} × 3 wanted", photo.len())
    }
    let levels: Vec<[f32; 256]> = (0..3)
        .map(|c| std::array::from_fn(|v| (v as f32 * scale.rescale - scale.mean[c]) / scale.std[c]))
        .collect();
    let mut out = vec![0f32; photos.len() * 3 * plane];
    out.par_chunks_mut(plane.max(1)).enumerate().for_each(|(index, out)| {
        let (photo, channel) = (photos[index / 3], index % 3);
        for (out, level) in out.iter_mut().zip(photo.iter().skip(channel).step_by(3)) {
            *out = levels[channel][*level as usize];
        }
    });
    Tensor::from_vec(out, (photos.len(), 3, height, width), device)
}
