"""A BEiT model folder with random weights, for a service of a size that no model in the checkout has.

The weights are one short run of random numbers, written again and again: they are right in kind, and no service is faster
or slower for them. bf16, so that BEiT-large is 0.6 GB.
"""

import array
import json
import random
import struct
import sys

# Odd, so that rows and columns do not come out alike.
RUN = (1 << 19) - 1


def write(config_folder, target):
    """`target` becomes a model folder of the architecture of `config_folder`."""
    config = json.loads((config_folder / "config.json").read_text())
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config))
    (target / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "BeitImageProcessor", "do_resize": True, "resample": 2, "do_center_crop": False,
        "size": {"height": config["image_size"], "width": config["image_size"]}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }))
    tensors, header, offset = list(shapes(config)), {}, 0
    for name, shape in tensors:
        end = offset + 2 * elements(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise, one = random_run(), bf16([1.0])
    with open(target / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            norm = "layernorm" in name and name.endswith("weight")
            fill(file, one if norm else noise, 2 * elements(shape))


def shapes(config):
    """Names and shapes of the tensors, as transformers 4 writes them."""
    width, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    side = config["image_size"] // patch
    yield "beit.embeddings.cls_token", [1, 1, width]
    yield "beit.embeddings.patch_embeddings.projection.weight", [width, 3, patch, patch]
    yield "beit.embeddings.patch_embeddings.projection.bias", [width]
    for layer in range(config["num_hidden_layers"]):
        own = f"beit.encoder.layer.{layer}."
        attention = own + "attention.attention."
        yield attention + "query.weight", [width, width]
        yield attention + "query.bias", [width]
        yield attention + "key.weight", [width, width]
        yield attention + "value.weight", [width, width]
        yield attention + "value.bias", [width]
        table = [(2 * side - 1) ** 2 + 3, config["num_attention_heads"]]
        yield attention + "relative_position_bias.relative_position_bias_table", table
        yield own + "attention.output.dense.weight", [width, width]
        yield own + "attention.output.dense.bias", [width]
        yield own + "intermediate.dense.weight", [inner, width]
        yield own + "intermediate.dense.bias", [inner]
        yield own + "output.dense.weight", [width, inner]
        yield own + "output.dense.bias", [width]
        for norm in ("layernorm_before", "layernorm_after"):
            yield own + norm + ".weight", [width]
            yield own + norm + ".bias", [width]
        yield own + "lambda_1", [width]
        yield own + "lambda_2", [width]
    yield "beit.pooler.layernorm.weight", [width]
    yield "beit.pooler.layernorm.bias", [width]
    labels = len(config["id2label"])
    yield "classifier.weight", [labels, width]
    yield "classifier.bias", [labels]


def elements(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def random_run():
    generator = random.Random(0)
    return bf16([generator.gauss(0.0, 0.02) for _ in range(RUN)])


def bf16(values):
    """The upper halves of the f32s."""
    halves = array.array("H", array.array("f", values).tobytes())
    upper = halves[1::2] if sys.byteorder == "little" else halves[0::2]
    if sys.byteorder == "big":
        upper.byteswap()
    return upper.tobytes()


def fill(file, pattern, size):
    for _ in range(size // len(pattern)):
        file.write(pattern)
    file.write(pattern[: size % len(pattern)])
