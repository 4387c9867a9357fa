"""Writes beit-tiny-dora/ and beit-tiny-trace-dora/ into the folder that is named: an adapter of PEFT's DoRA on beit-tiny, which lies
there, with random factors and magnitudes, and a training run with AdamW step by step. Needs torch, transformers 5, peft.

usage: python make_dora.py tests/goldens
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, get_linear_schedule_with_warmup

BASE = "beit-tiny"
STEPS, ACCUMULATION, MICRO_BATCH = 6, 2, 2
PEAK, WARMUP_RATIO = 5e-3, 0.25
ADAMW = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
MAX_GRAD_NORM = 1.0


def adapted(root, **settings):
    base = AutoModelForImageClassification.from_pretrained(root / BASE)
    config = LoraConfig(modules_to_save=["classifier"], use_dora=True, **settings)
    model = get_peft_model(base, config).eval()
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if "lora_B" in own or "modules_to_save" in own:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
            if "lora_magnitude_vector" in own:
                parameter.mul_(1 + torch.randn_like(parameter) * 0.3)
    return model


def adapter(root):
    """Modules with and without a bias, and rsLoRA's scale."""
    torch.manual_seed(20)
    targets = ["q_proj", "k_proj", "fc1"]
    model = adapted(root, r=4, lora_alpha=8, target_modules=targets, use_rslora=True)
    folder = root / f"{BASE}-dora"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    saved = json.loads((folder / "adapter_config.json").read_text())
    saved["base_model_name_or_path"] = BASE
    (folder / "adapter_config.json").write_text(json.dumps(saved, indent=2) + "\n")
    pixel_values = load_file(root / BASE / "expected.safetensors")["pixel_values"]
    with torch.no_grad():
        logits = model(pixel_values=pixel_values).logits
    save_file({"pixel_values": pixel_values, "logits": logits.contiguous()}, folder / "expected.safetensors")


def trace(root):
    """In evaluation mode, as nothing is dropped; from factors and magnitudes that change the weights."""
    torch.manual_seed(21)
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "key", "value"]}
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    model = adapted(root, **{**lora, "target_modules": [names[target] for target in lora["target_modules"]]})
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    tensors = {f"initial.{name}": p.detach().clone() for name, p in trained.items()}
    photos = STEPS * ACCUMULATION * MICRO_BATCH
    pixel_values, labels = torch.randn(photos, 3, 48, 48), torch.randint(0, 7, (photos,))
    optimizer = torch.optim.AdamW(trained.values(), lr=PEAK, **ADAMW)
    schedule = get_linear_schedule_with_warmup(optimizer, -int(-WARMUP_RATIO * STEPS // 1), STEPS)
    run = {"loss": [], "lr": [], "grad_norm": []}
    for step in range(STEPS):
        total = 0.0
        for micro in range(ACCUMULATION):
            start = (step * ACCUMULATION + micro) * MICRO_BATCH
            logits = model(pixel_values=pixel_values[start : start + MICRO_BATCH]).logits
            loss = torch.nn.functional.cross_entropy(logits, labels[start : start + MICRO_BATCH]) / ACCUMULATION
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), MAX_GRAD_NORM)
        run["loss"].append(total)
        run["lr"].append(schedule.get_last_lr()[0])
        run["grad_norm"].append(norm.item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    tensors |= {f"final.{name}": p.detach().clone() for name, p in trained.items()}
    folder = root / f"{BASE}-trace-dora"
    folder.mkdir(exist_ok=True)
    save_file({**tensors, "pixel_values": pixel_values, "labels": labels}, folder / "trace.safetensors")
    said = {
        "base": BASE, "lora": {**lora, "modules_to_save": ["classifier"], "use_dora": True}, "steps": STEPS,
        "accumulation": ACCUMULATION, "micro_batch": MICRO_BATCH, **ADAMW, "warmup_ratio": WARMUP_RATIO,
        "max_grad_norm": MAX_GRAD_NORM, "dropout": 0, "drop_path": 0, **run,
    }  # fmt: skip
    (folder / "trace.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    adapter(Path(sys.argv[1]))
    trace(Path(sys.argv[1]))
