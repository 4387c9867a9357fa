"""Writes swin-padded-tiny/ and swinv2-zero-tiny/ into the folder that is named: random models whose grids are no multiple of
their windows, with what transformers makes of them. Needs torch, transformers 5 and safetensors.

usage: python make_windows.py tests/goldens
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import SwinConfig, SwinForImageClassification, Swinv2Config, Swinv2ForImageClassification

SIZES = dict(embed_dim=12, depths=[2, 2, 2], num_heads=[2, 3, 4], patch_size=4, window_size=5, mlp_ratio=1.5, num_labels=7)
MODELS = {
    # name: class, config, size of a photo, another size
    "swin-padded-tiny": (SwinForImageClassification, SwinConfig(image_size=92, **SIZES), 92, (102, 134)),
    # The last stage's grid is smaller than a window; biases were never trained with other windows.
    "swinv2-zero-tiny": (
        Swinv2ForImageClassification, Swinv2Config(image_size=52, pretrained_window_sizes=[0, 0, 0], **SIZES), 52, (62, 90),
    ),
}


def random_model(model_class, config):
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 / parameter.shape[-1] ** 0.5
            own = 1.0 if parameter.dim() == 1 else 0.3
            parameter.copy_(torch.randn_like(parameter) * scale + parameter * own)
    return model


def gradients_by_file_name(model, folder):
    """transformers 5 names parameters otherwise than its files do: they are found by their values."""
    running = list(model.named_parameters())
    found = {}
    for name, values in load_file(folder / "model.safetensors").items():
        (gradient,) = [p.grad for _, p in running if p.shape == values.shape and torch.equal(p.detach(), values)]
        found[f"grad.{name}"] = gradient.contiguous()
    return found


def write(root, name, seed):
    model_class, config, size, other = MODELS[name]
    torch.manual_seed(seed)
    model, folder = random_model(model_class, config), root / name
    model.save_pretrained(folder)
    processor = dict(
        image_processor_type="ViTImageProcessor", do_resize=True, do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
        image_mean=[0.5] * 3, image_std=[0.5] * 3, size=dict(height=size, width=size),
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    pixel_values, labels = torch.randn(3, 3, size, size), torch.tensor([0, 3, 6])
    output, resized = model(pixel_values, output_hidden_states=True), torch.randn(2, 3, *other)
    expected = {f"hidden_state.{i}": state for i, state in enumerate(output.hidden_states)} | {
        "pixel_values": pixel_values, "logits": output.logits,
        "resized.pixel_values": resized, "resized.logits": model(resized).logits,
    }
    save_file({key: value.detach().contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    loss = torch.nn.functional.cross_entropy(model(pixel_values).logits, labels)
    loss.backward()
    gradients = gradients_by_file_name(model, folder)
    save_file(gradients | {"labels": labels, "loss": loss.detach().reshape(1)}, folder / "expected_gradients.safetensors")


if __name__ == "__main__":
    for number, name in enumerate(MODELS):
        write(Path(sys.argv[1]), name, 103 + 2 * number)
