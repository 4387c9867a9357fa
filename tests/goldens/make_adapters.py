"""Writes clip-tiny-lora/, swin-tiny-lora/, swinv2-tiny-lora/ and vit-tiny-lora/ into the folder that is named: adapters of PEFT
with random factors on the models that lie there, with the logits of transformers and PEFT. Needs torch, transformers 5, peft.

usage: python make_adapters.py tests/goldens
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

# ViT's targets are a pattern, Swin's adapter lies in a .bin.
TARGETS = {
    "clip-tiny": ["q_proj", "v_proj", "fc1"],
    "swin-tiny": ["q_proj", "v_proj", "reduction"],
    "swinv2-tiny": ["query", "value", "continuous_position_bias_mlp.0"],
    "vit-tiny": r".*\.layers\.\d+\.attention\.(q|v)_proj",
}


def write(root, name, seed):
    torch.manual_seed(seed)
    base = AutoModelForImageClassification.from_pretrained(root / name)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS[name], modules_to_save=["classifier"])
    model = get_peft_model(base, config).eval()
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if "lora_B" in own or "modules_to_save" in own:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    folder = root / f"{name}-lora"
    model.save_pretrained(folder, safe_serialization=name != "swin-tiny")
    (folder / "README.md").unlink(missing_ok=True)
    saved = json.loads((folder / "adapter_config.json").read_text())
    saved["base_model_name_or_path"] = name
    (folder / "adapter_config.json").write_text(json.dumps(saved, indent=2) + "\n")
    pixel_values = load_file(root / name / "expected.safetensors")["pixel_values"]
    with torch.no_grad():
        logits = model(pixel_values=pixel_values).logits
    save_file({"pixel_values": pixel_values, "logits": logits.contiguous()}, folder / "expected.safetensors")


if __name__ == "__main__":
    for seed, name in enumerate(TARGETS):
        write(Path(sys.argv[1]), name, seed)
