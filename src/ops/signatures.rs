//! That the calls of the CUDA kernels have the kernels' arguments: nothing else would notice before a GPU computes nonsense.
//!
//! Each call is made with tensors on the CPU, where a [`Kernel`] runs nothing and comes here instead.

use super::launch::{Argument, File, Kernel};
use super::{composed_attention, dropout, gelu, layer_norm, linear, residual};
use candle_core::{Device, Result, Tensor};

/// Compares the arguments of a call with the signature in its `.cu` file.
pub(super) fn check(kernel: &Kernel<'_>) {
    let source = match kernel.file {
        File::Attention => include_str!("attention.cu"),
        File::Elementwise => include_str!("elementwise.cu"),
        File::LayerNorm => include_str!("layer_norm.cu"),
    };
    let head = format!(" {}_##NAME(", kernel.name);
    let (_, rest) = source.split_once(&head).unwrap_or_else(|| panic!("no kernel {}", kernel.name));
    let parameters = rest.split(')').next().unwrap_or_default().replace('\\', " ");
    let wanted: Vec<&str> = parameters.split(',').map(|parameter| kind(parameter.trim())).collect();
    assert_eq!(wanted.first(), Some(&"values"), "{}: the result comes first", kernel.name);
    assert_eq!(wanted.len(), kernel.arguments.len() + 1, "{}: {wanted:?}", kernel.name);
    for (place, (argument, wanted)) in kernel.arguments.iter().zip(&wanted[1..]).enumerate() {
        let fits = match argument {
            Argument::Tensor(..) => *wanted == "values",
            Argument::Wide(..) => *wanted == "wide",
            Argument::Absent => ["values", "wide"].contains(wanted),
            Argument::F32(_) => *wanted == "float",
            Argument::U32(_) => *wanted == "unsigned",
            Argument::U64(_) => *wanted == "word",
        };
        assert!(fits, "{}: argument {place} is {wanted} in the kernel", kernel.name);
    }
}

fn kind(parameter: &str) -> &'static str {
    let known = [
        ("const T *", "values"),
        ("T *", "values"),
        ("const float *", "wide"),
        ("float ", "float"),
        ("unsigned ", "unsigned"),
        ("size_t ", "word"),
        ("uint64_t ", "word"),
    ];
    let found = known.iter().find(|(start, _)| parameter.starts_with(start));
    found.unwrap_or_else(|| panic!("`{parameter}` has a type that no argument has")).1
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).expect("a tensor")
}

/// The call was described and compared: only then is it refused.
fn refused(call: Result<Tensor>) {
    let error = call.expect_err("kernels run on CUDA alone").to_string();
    assert!(error.contains("a CUDA kernel"), "{error}");
}

#[test]
fn every_call_has_the_arguments_of_its_kernel() {
    let (x, row, factors) = (zeros(&[2, 3, 4]), zeros(&[4]), zeros(&[2]));
    refused(layer_norm::on_rows("layer_norm", 1e-5, [&x, &row, &row], 4));
    refused(layer_norm::on_rows("layer_norm_backward", 1e-5, [&x, &row, &x], 24));
    refused(linear::add_bias(&x, &row));
    refused(gelu::backward_kernel(&x, &x));
    refused(dropout::kernel(&x, 1, 0.5, 2.0));
    let square = zeros(&[6, 4, 4]);
    refused(composed_attention::probabilities(&square, Some(&zeros(&[3, 4, 4]))));
    refused(composed_attention::probabilities(&square, None));
    refused(composed_attention::score_gradients(&square, &square));
    refused(residual::on_values(Some(&x), &x, Some(&row), None, 0.5));
    refused(residual::on_values(None, &x, Some(&row), Some(&factors), 1.0));
    refused(residual::on_values(Some(&x), &x, None, None, 1.0));
}

#[test]
#[should_panic(expected = "argument 2 is word in the kernel")]
fn a_call_with_another_argument_is_noticed() {
    let arguments = [Argument::Tensor(0, 1), Argument::Tensor(1, 1), Argument::U32(1)];
    let geometry = super::launch::Geometry::Values(1);
    check(&Kernel { file: File::Elementwise, name: "gelu_backward", geometry, arguments: &arguments });
}
