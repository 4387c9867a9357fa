//! Ops without a kernel for their device or number format are composed of candle's operations: the same values, the same
//! gradients. On the CPU, f32 has kernels and f64 has none.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use candle_core::{DType, Device, Result, Tensor, Var};
use featherlight::ops::{self, Attention, Regions, RelativePositions, Residual, RowMap};
use featherlight::randomness::{Purpose, Randomness};
use std::sync::Arc;

fn random(shape: &[usize], item: u64) -> Tensor {
    let mut stream = Randomness::new(1).stream(Purpose::Initialize, 0, item, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor")
}

/// The result of `op` and the gradients of its arguments for a gradient that is no constant.
fn run(arguments: &[Tensor], dtype: DType, op: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let variables = arguments.iter().map(|argument| Var::from_tensor(&argument.to_dtype(dtype)?));
    let variables = variables.collect::<Result<Vec<Var>>>()?;
    let tensors: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let result = op(&tensors)?;
    let store = ops::backward(&(&result * random(result.dims(), 99).to_dtype(dtype)?)?.sum_all()?)?;
    let gradients = tensors.iter().map(|tensor| store.get(tensor).cloned().expect("a gradient"));
    std::iter::once(result.detach()).chain(gradients).map(|tensor| tensor.to_dtype(DType::F32)).collect()
}

fn compare(name: &str, arguments: &[Tensor], op: &dyn Fn(&[Tensor]) -> Result<Tensor>) {
    let kernel = run(arguments, DType::F32, op).unwrap_or_else(|error| panic!("{name}: {error}"));
    for (dtype, tolerance) in [(DType::F64, 2e-5), (DType::F16, 2e-2), (DType::BF16, 1.5e-1)] {
        let composed = run(arguments, dtype, op).unwrap_or_else(|error| panic!("{name} {dtype:?}: {error}"));
        for (index, (kernel, composed)) in kernel.iter().zip(&composed).enumerate() {
            assert_eq!(kernel.dims(), composed.dims(), "{name} {dtype:?} {index}");
            let largest = |tensor: &Tensor| tensor.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
            let difference =
                (kernel - composed).and_then(|difference| largest(&difference)).expect("a number");
            let scale = largest(kernel).expect("a number").max(1.0);
            assert!(
                difference <= tolerance * scale,
                "{name} {dtype:?}: tensor {index} differs by {difference:e} of {scale}"
            );
        }
    }
}

#[test]
fn linear_with_and_without_a_bias() {
    let (x, weight, bias) = (random(&[3, 5, 16], 1), random(&[8, 16], 2), random(&[8], 3));
    compare("linear", &[x.clone(), weight.clone(), bias], &|t| ops::linear(&t[0], &t[1], Some(&t[2])));
    compare("linear without bias", &[x, weight], &|t| ops::linear(&t[0], &t[1], None));
}

#[test]
fn a_low_rank_part_is_added_onto_a_product() {
    let (x, weight) = (random(&[3, 5, 16], 1), random(&[8, 16], 2));
    let (low, up) = (random(&[3, 5, 2], 15), random(&[8, 2], 16));
    compare("linear_onto", &[x, weight, low, up], &|t| {
        ops::linear_onto(ops::linear(&t[0], &t[1], None)?, &t[2], &t[3], 0.5)
    });
}

#[test]
fn three_lie_side_by_side() {
    let parts = [17, 18, 19].map(|item| random(&[3, 5, 16], item));
    compare("side_by_side", &parts, &|t| ops::side_by_side([&t[0], &t[1], &t[2]]));
}

#[test]
fn layer_norm_and_gelu() {
    let (x, weight, bias) = (random(&[3, 5, 16], 4), random(&[16], 5), random(&[16], 6));
    compare("layer_norm", &[x.clone(), weight, bias], &|t| ops::layer_norm(&t[0], &t[1], &t[2], 1e-5));
    compare("gelu", &[x], &|t| ops::gelu(&t[0]));
}

#[test]
fn attention_with_and_without_positions() {
    let grid = RelativePositions { height: 3, width: 2, class_token: true };
    let settings = Attention { heads: 2, scale: 0.5, regions: None };
    let (qkv, table) = (random(&[3, 7, 24], 7), random(&[grid.entries(), 2], 8));
    compare("attention", &[qkv.clone(), table], &|t| {
        ops::attention(&t[0], Some((&t[1], grid)), settings.clone())
    });
    compare("attention without positions", &[qkv], &|t| ops::attention(&t[0], None, settings.clone()));
}

#[test]
fn attention_in_windows_keeps_regions_apart() {
    let grid = RelativePositions { height: 2, width: 3, class_token: false };
    let of = vec![0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1];
    let regions = Regions { of, tokens: 6, penalty: -100.0 };
    let settings = Attention { heads: 2, scale: 0.5, regions: Some(Arc::new(regions)) };
    let (qkv, table) = (random(&[4, 6, 24], 15), random(&[grid.entries(), 2], 16)); // two photos of two windows
    let attend = |qkv: &Tensor, table: &Tensor| ops::attention(qkv, Some((table, grid)), settings.clone());
    compare("attention", &[qkv.clone(), table.clone()], &|t| attend(&t[0], &t[1]));
    compare("attention without positions", std::slice::from_ref(&qkv), &|t| {
        ops::attention(&t[0], None, settings.clone())
    });
    // What a token of the other region holds changes nothing: token 2 of window 1, for token 0 there.
    let changed = qkv.slice_assign(&[1..2, 2..3, 0..24], &random(&[1, 1, 24], 17)).expect("a tensor");
    let token = |qkv: &Tensor, token| attend(qkv, &table)?.get(1)?.get(token)?.to_vec1::<f32>();
    assert_eq!(token(&qkv, 0).expect("values"), token(&changed, 0).expect("values"));
    assert_ne!(token(&qkv, 5).expect("values"), token(&changed, 5).expect("values"));
    assert!(ops::attention(&random(&[3, 6, 24], 18), None, settings.clone()).is_err(), "half a photo");
}

#[test]
fn quick_gelu_is_x_times_a_sigmoid() {
    compare("quick_gelu", &[random(&[3, 5, 16], 19)], &|t| ops::quick_gelu(&t[0]));
    let x = Tensor::new(&[-1e4f32, -1.0, 0.0, 1.0, 1e4], &Device::Cpu).expect("a tensor");
    let y = ops::quick_gelu(&x).and_then(|y| y.to_vec1::<f32>()).expect("values");
    let want = [-0.0, -0.154_204_9, 0.0, 0.845_795_1, 1e4];
    assert!(y.iter().zip(want).all(|(y, want)| (y - want).abs() < 1e-6), "{y:?}");
}

#[test]
fn unit_heads_make_queries_and_keys_cosines() {
    let (qkv, scale) = (random(&[3, 5, 24], 20), random(&[2], 21));
    compare("unit_heads", &[qkv.clone(), scale], &|t| ops::unit_heads(&t[0], &t[1]));
    let scale = Tensor::new(&[1f32, 3.0], &Device::Cpu).expect("a tensor");
    let unit = ops::unit_heads(&qkv, &scale).and_then(|unit| unit.reshape((15, 6, 4))).expect("a tensor");
    let lengths = unit.sqr().and_then(|squares| squares.sum(2)?.sqrt()?.to_vec2::<f32>()).expect("lengths");
    for lengths in lengths {
        let near = lengths.iter().zip([1.0, 3.0, 1.0, 1.0]).all(|(found, want)| (found - want).abs() < 1e-5);
        assert!(near, "{lengths:?}");
    }
    let zeros =
        qkv.zeros_like().and_then(|zeros| ops::unit_heads(&zeros, &scale)?.sum_all()?.to_scalar::<f32>());
    assert_eq!(zeros.expect("a sum"), 0.0, "no direction is no error");
}

#[test]
fn rows_are_picked_and_their_gradients_go_back() {
    let map = RowMap::new([Some(3), None, Some(0), Some(1)], 5).expect("a map");
    compare("pick_rows", &[random(&[2, 5, 4], 22)], &|t| ops::pick_rows(&t[0], &map, 4, (2, map.rows(), 4)));
}

#[test]
fn residual_with_a_scale_and_a_factor_a_sample() {
    let (x, y, scale) = (random(&[3, 5, 16], 9), random(&[3, 5, 16], 10), random(&[16], 11));
    let arguments = [x.clone(), y.clone(), scale];
    for factor in
        [Residual::Constant(1.0), Residual::Constant(0.5), Residual::PerSample(vec![0.0, 1.25, 1.25])]
    {
        compare("residual", &arguments, &|t| ops::residual(&t[0], &t[1], Some(&t[2]), factor.clone()));
        compare("residual without scale", &[x.clone(), y.clone()], &|t| {
            ops::residual(&t[0], &t[1], None, factor.clone())
        });
    }
}

#[test]
fn dropout_draws_the_same_mask() {
    let stream = || Randomness::new(3).stream(Purpose::Dropout, 0, 0, 0);
    compare("dropout", &[random(&[40, 50], 12)], &|t| ops::dropout(&t[0], 0.25, stream()));
    let dropped = ops::dropout(&random(&[400, 500], 13), 0.25, stream()).expect("a tensor");
    let zeros = dropped.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
    let share = zeros.iter().filter(|value| **value == 0.0).count() as f64 / zeros.len() as f64;
    assert!((share - 0.25).abs() < 0.005, "{share} dropped");
}

#[test]
fn frozen_arguments_get_no_gradient() {
    let (weight, bias) = (random(&[8, 16], 2), random(&[8], 3));
    for dtype in [DType::F32, DType::F64] {
        let x =
            Var::from_tensor(&random(&[5, 16], 1).to_dtype(dtype).expect("a tensor")).expect("a variable");
        let (weight, bias) =
            (weight.to_dtype(dtype).expect("a tensor"), bias.to_dtype(dtype).expect("a tensor"));
        let y = ops::linear(x.as_tensor(), &weight, Some(&bias)).expect("a product");
        let store = y.sum_all().and_then(|sum| ops::backward(&sum)).expect("gradients");
        assert!(store.get(x.as_tensor()).is_some());
        assert!(store.get(&weight).is_none() && store.get(&bias).is_none(), "{dtype:?}");
    }
}

#[test]
fn the_loss_of_logits_in_fewer_bits_has_their_gradient() {
    let logits = random(&[4, 6], 14);
    let run = |dtype| {
        run(std::slice::from_ref(&logits), dtype, &|t| {
            ops::cross_entropy(&t[0], &[0, 5, 2, 2], 0.1)?.to_dtype(dtype)
        })
    };
    let (wide, narrow) = (run(DType::F32).expect("a loss"), run(DType::BF16).expect("a loss"));
    let difference = (&wide[1] - &narrow[1]).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>());
    assert!(difference.expect("a number") < 5e-3);
}
