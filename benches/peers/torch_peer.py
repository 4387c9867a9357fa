#!/usr/bin/env python3
"""The same work in PyTorch, transformers and PEFT: a process that stays alive and measures on request.

    torch_peer.py --device cuda|cuda:N|cpu

Reads one JSON object a line from standard input and answers each with one on standard output: `{"error": …}` where a
request failed, with `"absent": true` where a library or the device is not there. `scripts/gpu-check` asks; by hand:

    echo '{"do": "matmul", "size": 1024, "dtype": "f32", "seconds": 1}' | benches/peers/torch_peer.py --device cpu
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import sys
import time
import traceback


class Absent(Exception):
    """Something that the measurement needs is not on this machine."""


def need(module):
    try:
        return __import__(module)
    except ImportError as error:
        raise Absent(f"{module}: {error}") from error


def summary(times):
    """Milliseconds of repeated work."""
    times = sorted(times)
    return {
        "median_ms": statistics.median(times) * 1000,
        "min_ms": times[0] * 1000,
        "max_ms": times[-1] * 1000,
        "passes": len(times),
    }


class Peer:
    """The models and tensors of one device. One model at a time: a new one takes the place of the last."""

    def __init__(self, device):
        self.torch = need("torch")
        if device.startswith("cuda") and not self.torch.cuda.is_available():
            raise Absent("torch: it finds no CUDA device")
        self.device = self.torch.device("cuda:0" if device == "cuda" else device)
        self.cuda = self.device.type == "cuda"
        if self.cuda:
            self.torch.cuda.set_device(self.device)
        self.torch.manual_seed(0)
        self.model = self.compiled = self.optimizer = None
        self.dtype = None

    # What a request may ask for: a method of this name.
    REQUESTS = ("info", "load", "inference", "profile", "load_training", "training", "matmul", "copy", "free")

    def info(self):
        torch, versions = self.torch, {"python": platform.python_version()}
        for name in ("torch", "transformers", "peft"):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = "absent"
        device = {"name": platform.processor() or platform.machine()}
        if self.cuda:
            properties = torch.cuda.get_device_properties(self.device)
            device = {
                "name": properties.name,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "memory_bytes": properties.total_memory,
                "multiprocessors": properties.multi_processor_count,
            }
            versions["cuda"] = torch.version.cuda
            versions["cudnn"] = torch.backends.cudnn.version()
        return {"versions": versions, "device": device, "threads": torch.get_num_threads()}

    def free(self):
        """Lets go of the model and gives its memory back to the device."""
        self.model = self.compiled = self.optimizer = None
        import gc

        gc.collect()
        if self.cuda:
            self.torch.cuda.empty_cache()
        return {}

    def synchronize(self):
        if self.cuda:
            self.torch.cuda.synchronize(self.device)

    def of(self, dtype):
        return {"f32": self.torch.float32, "bf16": self.torch.bfloat16, "f16": self.torch.float16}[dtype]

    def build(self, config, dtype):
        """The architecture of a config.json with random weights, none of them zero: zeros can be faster than real data."""
        need("transformers")
        from transformers import AutoConfig, AutoModelForImageClassification

        self.free()
        config = AutoConfig.from_pretrained(os.path.abspath(config), local_files_only=True)
        with self.torch.device(self.device):
            # SwinV2's cosine attention has no other than the eager one.
            attention = "eager" if config.model_type == "swinv2" else "sdpa"
            model = AutoModelForImageClassification.from_config(config, attn_implementation=attention)
        model = model.to(device=self.device, dtype=dtype)
        with self.torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.02)
        for module in model.modules():
            if hasattr(module, "generate_relative_position_index"):
                self.keep_index(module)
        self.config = config
        return model

    def keep_index(self, module):
        """transformers holds BEiT's bias index in main memory and uploads it in every layer of every pass; a peer that is
        worth a comparison has it on the device."""
        window = module.window_size
        index = module.generate_relative_position_index(window).to(self.device)
        made = type(module).generate_relative_position_index
        module.generate_relative_position_index = lambda size: index if size == window else made(size)

    def photos(self, batch, dtype):
        # CLIP has the sizes of its image tower in a config of their own.
        size = getattr(self.config, "vision_config", self.config).image_size
        return self.torch.randn(batch, 3, size, size, device=self.device).to(dtype)

    def load(self, config, dtype):
        self.dtype = self.of(dtype)
        self.model = self.build(config, self.dtype).eval()
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {"parameters": parameters, "dtype": dtype, "attention": self.attention()}

    def attention(self):
        """What transformers was told, and the attention operators that PyTorch then ran, once a layer."""
        from torch.profiler import ProfilerActivity, profile

        photos = self.photos(1, self.dtype)
        with self.torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as profiled:
            self.model(photos)
        names = {event.key for event in profiled.key_averages() if "attention" in event.key.lower()}
        implementation = getattr(self.model.config, "_attn_implementation", "unknown")
        return {"implementation": implementation, "operators": sorted(names)}

    def inference(self, batch, seconds, compile=False, mode="max-autotune"):
        """Passes over a batch that lies on the device, in the model's number format; the logits are copied back each time."""
        torch, answer = self.torch, {}
        photos = self.photos(batch, self.dtype)
        run = self.model
        if compile:
            if self.compiled is None:
                self.compiled = torch.compile(self.model, mode=mode, dynamic=False)
            run = self.compiled
        with torch.inference_mode():
            start = time.perf_counter()
            for _ in range(3):
                run(photos).logits.float().cpu()
            if compile:
                answer["compile_seconds"] = time.perf_counter() - start
            times, begin = [], time.perf_counter()
            while len(times) < 3 or time.perf_counter() - begin < seconds:
                start = time.perf_counter()
                run(photos).logits.float().cpu()
                times.append(time.perf_counter() - start)
        answer.update(summary(times), batch_size=batch)
        answer["photos_per_second"] = batch / statistics.median(times)
        return answer

    def profile(self, batch):
        """Time of one pass by operator (on CUDA by kernel), the longest first."""
        from torch.profiler import ProfilerActivity, profile

        photos, passes = self.photos(batch, self.dtype), 3
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.cuda else [])
        with self.torch.inference_mode():
            for _ in range(2):
                self.model(photos)
            self.synchronize()
            with profile(activities=activities) as profiled:
                for _ in range(passes):
                    self.model(photos)
                self.synchronize()
        rows = []
        for event in profiled.key_averages():
            time_us = event.self_device_time_total if self.cuda else event.self_cpu_time_total
            if time_us > 0:
                rows.append({"op": event.key[:100], "calls": event.count / passes, "ms": time_us / 1000 / passes})
        rows.sort(key=lambda row: -row["ms"])
        return {"batch_size": batch, "profile": rows[:15]}

    def load_training(self, config, method, dtype):
        """f32 weights, computed with under autocast; LoRA of rank 16 on query and value beside the head, or everything."""
        self.dtype = self.of(dtype)
        model = self.build(config, self.torch.float32)
        if method == "lora":
            need("peft")
            from peft import LoraConfig, get_peft_model

            names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
            targets = ["q_proj", "v_proj"] if "q_proj" in names else ["query", "value"]
            adapter = LoraConfig(
                r=16, lora_alpha=16, lora_dropout=0.1, target_modules=targets, modules_to_save=["classifier"]
            )
            model = get_peft_model(model, adapter)
        self.model = model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = self.torch.optim.AdamW(trained, lr=5e-5, weight_decay=0.0)
        return {"trainable_parameters": sum(parameter.numel() for parameter in trained), "method": method}

    def training(self, batch, steps):
        """Whole steps: forward, cross-entropy, backward, clipping, AdamW. One is not counted."""
        torch = self.torch
        photos = self.photos(batch, torch.float32)
        labels = torch.randint(self.config.num_labels, (batch,), device=self.device)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        half = self.dtype != torch.float32

        def step():
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, dtype=self.dtype if half else torch.bfloat16, enabled=half):
                logits = self.model(pixel_values=photos).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            self.optimizer.step()
            value = loss.item()
            self.synchronize()
            return value

        step()
        times, loss = [], None
        for _ in range(steps):
            start = time.perf_counter()
            loss = step()
            times.append(time.perf_counter() - start)
        answer = summary(times)
        answer.update(batch_size=batch, loss=loss, images_per_second=batch / statistics.median(times))
        # The process's main memory, PyTorch itself included; ru_maxrss is in KiB on Linux.
        answer["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self.cuda:
            answer["max_memory_allocated_bytes"] = torch.cuda.max_memory_allocated(self.device)
            answer["max_memory_reserved_bytes"] = torch.cuda.max_memory_reserved(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        return answer

    def timed(self, work, seconds):
        """Seconds of each call of `work`; on CUDA by the device's own clock."""
        for _ in range(3):
            work()
        self.synchronize()
        times, begin = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - begin < seconds:
            if self.cuda:
                start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                work()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) / 1000)
            else:
                start = time.perf_counter()
                work()
                times.append(time.perf_counter() - start)
        return times

    def matmul(self, size, dtype, seconds):
        """A square product of random matrices: what the matrix units can do here."""
        left, right = (self.torch.randn(size, size, device=self.device).to(self.of(dtype)) for _ in range(2))
        out = self.torch.empty(size, size, device=self.device, dtype=self.of(dtype))
        answer = summary(self.timed(lambda: self.torch.matmul(left, right, out=out), seconds))
        operations = 2 * size**3
        tflops = {name: operations / answer[ms] / 1e9 for name, ms in
                  (("tflops", "median_ms"), ("tflops_max", "min_ms"), ("tflops_min", "max_ms"))}
        return {"size": size, "dtype": dtype, **answer, **tflops}

    def copy(self, bytes, seconds):
        """A copy inside the device's memory; bytes read and bytes written both count."""
        source = self.torch.randint(256, (bytes,), dtype=self.torch.uint8, device=self.device)
        target = self.torch.empty_like(source)
        answer = summary(self.timed(lambda: target.copy_(source), seconds))
        rates = {name: 2 * bytes / answer[ms] / 1e6 for name, ms in
                 (("gb_per_second", "median_ms"), ("gb_per_second_max", "min_ms"), ("gb_per_second_min", "max_ms"))}
        return {"bytes": bytes, **answer, **rates}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    # Answers go out on a descriptor of their own: libraries print to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
    peer = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            what = request.pop("do")
            if what not in Peer.REQUESTS:
                raise ValueError(f"no request `{what}`")
            peer = peer or Peer(device)
            answer = getattr(peer, what)(**request)
        except Absent as error:
            answer = {"error": str(error), "absent": True}
        except Exception as error:  # noqa: BLE001 - whatever it is, the asker decides
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error).strip()[:2000]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
