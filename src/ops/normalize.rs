//! u8 pixels to the model's input: `[batch, 3, height, width]` f32, scaled and shifted per channel. They travel to another
//! device as u8, a quarter of the bytes, and become numbers there.

use crate::image::Normalization;
use candle_core::{DType, Device, Result, Tensor, bail};
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
    if !device.is_cpu() {
        return composed(photos, (height, width), scale, device);
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

/// The same, composed of candle's operations on the device.
fn composed(
    photos: &[&[u8]],
    (height, width): (usize, usize),
    scale: &Normalization,
    device: &Device,
) -> Result<Tensor> {
    let levels = Tensor::from_vec(photos.concat(), (photos.len(), height * width, 3), device)?;
    let channels = |value: fn(&Normalization, usize) -> f32| {
        Tensor::from_vec((0..3).map(|c| value(scale, c)).collect::<Vec<f32>>(), (1, 1, 3), device)
    };
    let factor = channels(|scale, c| scale.rescale / scale.std[c])?;
    let shift = channels(|scale, c| -scale.mean[c] / scale.std[c])?;
    let values = levels.to_dtype(DType::F32)?.broadcast_mul(&factor)?.broadcast_add(&shift)?;
    values.transpose(1, 2)?.reshape((photos.len(), 3, height, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_composition_gives_what_the_kernel_gives() {
        let scale = Normalization { rescale: 1.0 / 255.0, mean: [0.5, 0.4, 0.3], std: [0.5, 0.25, 0.2] };
        let photos: [Vec<u8>; 2] = [(0..60).collect(), (100..160).collect()];
        let photos = photos.each_ref().map(Vec::as_slice);
        let kernel = normalize(&photos, 4, 5, &scale, &Device::Cpu).expect("pixel values");
        let composed = composed(&photos, (4, 5), &scale, &Device::Cpu).expect("pixel values");
        assert_eq!(kernel.dims(), composed.dims());
        let difference = (kernel - composed).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>());
        assert!(difference.expect("a number") < 1e-5);
    }
}
