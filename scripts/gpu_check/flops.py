"""Operations of a model, counted: 2·m·n·k of every product of an m×k with a k×n matrix. Everything else is left out.

With t tokens (patches and one more), width d, MLP width i, patch p and L layers, one photo's forward pass takes

    patches     2·(t−1)·3p²·d
    linears     L·(2·t·d·3d + 2·t·d·d + 2·t·d·i·2)      query, key, value; output; the MLP's two
    attention   L·(2·t·t·d·2)                           scores; their product with the values
    head        2·d·labels

A whole training step takes 3 forwards: each product has two gradients of its own size. LoRA trains no frozen weight, so
linears take 2 (forward, gradient of the input), attention 3, and rank r on query and value adds 3·L·2·(2·t·(d·r + r·d)).
What a program computes again, or in full where half would do, does not count: it is no work that was wanted.
"""

RANK = 16


def counted(config):
    """Operations of one photo's forward pass by kind, of a config.json that was read."""
    patch, width, inner = config["patch_size"], config["hidden_size"], config["intermediate_size"]
    layers, patches = config["num_hidden_layers"], (config["image_size"] // patch) ** 2
    tokens, labels = patches + 1, len(config["id2label"])
    return {
        "patches": 2 * patches * 3 * patch**2 * width,
        "linears": layers * 2 * tokens * width * (4 * width + 2 * inner),
        "attention": layers * 4 * tokens**2 * width,
        "head": 2 * width * labels,
        "adapters": layers * 2 * 4 * tokens * width * RANK,
    }


def forward(config):
    parts = counted(config)
    return parts["patches"] + parts["linears"] + parts["attention"] + parts["head"]


def training(config, method):
    """Operations of one photo in a training step."""
    if method == "full":
        return 3 * forward(config)
    parts = counted(config)
    frozen = parts["patches"] + 2 * parts["linears"]  # nothing before the first adapter wants a gradient
    return frozen + 3 * (parts["attention"] + parts["head"] + parts["adapters"])
