//! Ops without a kernel for their device or number format are composed of candle's operations: the same values, the same
//! gradients. On the CPU, f32 has kernels and f64 has none.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use candle_core::{DType, Device, Result, Tensor, Var};
use featherlight::ops::{self, Attention, RelativePositions, Residual};
use featherlight::randomness::{Purpose, Randomness};

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
    let store = (&result * random(result.dims(), 99).to_dtype(dtype)?)?.sum_all()?.backward()?;
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
fn layer_norm_and_gelu() {
    let (x, weight, bias) = (random(&[3, 5, 16], 4), random(&[16], 5), random(&[16], 6));
    compare("layer_norm", &[x.clone(), weight, bias], &|t| ops::layer_norm(&t[0], &t[1], &t[2], 1e-5));
    compare("gelu", &[x], &|t| ops::gelu(&t[0]));
}

#[test]
fn attention_with_and_without_positions() {
    let grid = RelativePositions { height: 3, width: 2 };
    let settings = Attention { heads: 2, scale: 0.5 };
    let (qkv, table) = (random(&[3, 7, 24], 7), random(&[grid.entries(), 2], 8));
    compare("attention", &[qkv.clone(), table], &|t| ops::attention(&t[0], Some((&t[1], grid)), settings));
    compare("attention without positions", &[qkv], &|t| ops::attention(&t[0], None, settings));
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
        let store = y.sum_all().and_then(|sum| sum.backward()).expect("gradients");
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
