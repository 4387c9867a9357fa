#!/usr/bin/env python3
"""Hugging Face's and Triton's own clients against a running service.

    tests/slow/clients.py [--program FILE]

`./test slow` calls it after the programs are built. The clients come from PyPI (see peers.py). The model is a reference one with
random weights, whose logits for given pixel values are known from transformers.
"""

import argparse
import json
import struct
import urllib.request
import zlib

import peers

MODEL = peers.ROOT / "tests/goldens/beit-tiny"
PHOTOS = sorted((peers.ROOT / "tests/data/sign-digits/test").glob("*/*.jpg"))[:5]


def classify(service, photo, query="", key=None):
    headers = {"content-type": "application/octet-stream", **({"x-api-key": key} if key else {})}
    request = urllib.request.Request(f"{service.address}/classify{query}", photo.read_bytes(), headers)
    with urllib.request.urlopen(request, timeout=peers.PATIENCE) as answer:
        return json.load(answer)["predictions"]


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def hugging_face(service, damaged):
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    rows = lambda elements: [{"label": one.label, "score": one.score} for one in elements]
    for address in (service.address, service.address + "/predict"):
        client = InferenceClient(model=address)
        for photo in PHOTOS:
            assert rows(client.image_classification(str(photo))) == classify(service, photo), photo
        found = rows(client.image_classification(PHOTOS[0].read_bytes(), top_k=2, function_to_apply="none"))
        assert found == classify(service, PHOTOS[0], "?top_k=2&function_to_apply=none"), found
        error = raises(HfHubHTTPError, lambda: client.image_classification(str(damaged)))
        assert error.response.status_code == 422 and "undecodable_image" in str(error), error
    client = InferenceClient(model=service.address, provider="hf-inference")
    assert client.health_check() and client.get_endpoint_info()["model"]["name"] == "beit-tiny"
    print("huggingface_hub: photos, parameters, errors, health and info")


def hugging_face_with_a_key(service):
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    client = InferenceClient(model=service.address, token="secret")
    found = [{"label": one.label, "score": one.score} for one in client.image_classification(str(PHOTOS[0]))]
    assert found == classify(service, PHOTOS[0], key="secret")
    client = InferenceClient(model=service.address, token="wrong")
    error = raises(HfHubHTTPError, lambda: client.image_classification(str(PHOTOS[0])))
    assert error.response.status_code == 401, error
    print("huggingface_hub: a token is a key")


def tensors(path):
    """A safetensors file of 32-bit floats."""
    import numpy

    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + length])
    found = {}
    for name, one in head.items():
        if name != "__metadata__" and one["dtype"] == "F32":
            start, end = (8 + length + offset for offset in one["data_offsets"])
            found[name] = numpy.frombuffer(data[start:end], dtype="<f4").reshape(one["shape"])
    return found


def png(pixels):
    """Pixels, height × width × 3, as a PNG."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def triton(service, damaged):
    import numpy
    import tritonclient.http as http
    from tritonclient.utils import InferenceServerException

    client = http.InferenceServerClient(service.address.removeprefix("http://"), network_timeout=peers.PATIENCE)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("beit-tiny")
    assert client.is_model_ready("beit-tiny", "1") and not client.is_model_ready("beit-tiny", "2")
    assert client.get_server_metadata()["name"] == "featherlight"
    metadata = client.get_model_metadata("beit-tiny")
    assert metadata == client.get_model_metadata("beit-tiny", "1")
    shapes = {one["name"]: (one["datatype"], one["shape"]) for one in metadata["inputs"] + metadata["outputs"]}
    height, width, labels = 48, 48, 7
    assert shapes == {
        "image": ("BYTES", [-1, 1]),
        "pixel_values": ("FP32", [-1, 3, height, width]),
        "pixels": ("UINT8", [-1, height, width, 3]),
        "logits": ("FP32", [-1, labels]),
        "scores": ("FP32", [-1, labels]),
    }, shapes
    config = client.get_model_config("beit-tiny")
    assert config["max_batch_size"] == 64 and config["input"][0]["data_type"] == "TYPE_STRING", config
    assert [row["name"] for row in client.get_model_repository_index()] == ["beit-tiny"]

    def infer(name, data, datatype, binary=True, shape=None, **more):
        tensor = http.InferInput(name, shape or list(data.shape), datatype)
        tensor.set_data_from_numpy(data, binary_data=binary)
        return client.infer("beit-tiny", [tensor], **more)

    # Encoded photos, as bytes: the labels of /classify, in both shapes.
    want = []
    for photo in PHOTOS:
        by_label = {row["label"]: row["score"] for row in classify(service, photo, "?top_k=7&function_to_apply=none")}
        want.append([by_label[f"class_{index:02}"] for index in range(labels)])
    encoded = numpy.array([photo.read_bytes() for photo in PHOTOS], dtype=numpy.object_)
    for data in (encoded, encoded.reshape(-1, 1)):
        result = infer("image", data, "BYTES", request_id="seven")
        numpy.testing.assert_allclose(result.as_numpy("logits"), want, rtol=1e-6)
        scores = result.as_numpy("scores")
        assert scores.dtype == numpy.float32 and scores.shape == (len(PHOTOS), labels)
        numpy.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)
        assert result.get_response()["id"] == "seven"

    # Normalised values: the logits of transformers.
    expected = tensors(MODEL / "expected.safetensors")
    values, logits = expected["pixel_values"], expected["logits"]
    for binary in (True, False):
        for answered in (True, False):
            outputs = [http.InferRequestedOutput("logits", binary_data=answered)]
            result = infer("pixel_values", values, "FP32", binary, outputs=outputs)
            numpy.testing.assert_allclose(result.as_numpy("logits"), logits, atol=1e-4)
            assert result.as_numpy("scores") is None, "not asked for"

    # Pixels of the model's own size: what a PNG of them gets.
    pixels = numpy.random.default_rng(7).integers(0, 256, (3, height, width, 3), dtype=numpy.uint8)
    photos = numpy.array([png(one) for one in pixels], dtype=numpy.object_)
    from_png = infer("image", photos, "BYTES").as_numpy("logits")
    for binary in (True, False):
        numpy.testing.assert_allclose(infer("pixels", pixels, "UINT8", binary).as_numpy("logits"), from_png, rtol=1e-5)

    # Classes, as bytes and as JSON.
    for binary in (True, False):
        outputs = [http.InferRequestedOutput("scores", binary_data=binary, class_count=3)]
        classes = infer("image", encoded, "BYTES", outputs=outputs).as_numpy("scores")
        assert classes.shape == (len(PHOTOS), 3), classes.shape
        for row, photo in zip(classes, PHOTOS):
            best = classify(service, photo, "?top_k=3")
            for text, prediction in zip(row, best):
                score, index, label = (text if isinstance(text, str) else text.decode()).split(":")
                assert label == prediction["label"] == f"class_{int(index):02}", (text, prediction)
                assert abs(float(score) - prediction["score"]) < 1e-5

    pending = []
    for photo in PHOTOS:
        tensor = http.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(numpy.array([photo.read_bytes()], dtype=numpy.object_))
        pending.append(client.async_infer("beit-tiny", [tensor]))
    for answer, row in zip(pending, want):
        numpy.testing.assert_allclose(answer.get_result().as_numpy("logits")[0], row, rtol=1e-6)

    refused = [
        (lambda: client.get_model_metadata("birds"), "404", "birds"),
        (lambda: infer("picture", encoded, "BYTES"), "400", "`picture`"),
        (lambda: infer("pixels", pixels[:, :47], "UINT8"), "400", "[n, 48, 48, 3]"),
        (lambda: infer("image", encoded, "BYTES", priority=3), "400", "priority"),
        (lambda: infer("image", numpy.array([PHOTOS[0].read_bytes(), damaged.read_bytes()], dtype=numpy.object_), "BYTES"),
         "422", "image 1 of 2"),
    ]
    for call, status, words in refused:
        error = raises(InferenceServerException, call)
        assert error.status() == status and words in error.message(), error
    print("tritonclient: metadata, config, index, photos, values, pixels, classes, several at once, errors")


def main():
    peers.with_clients()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=peers.TARGET / "debug/featherlight", metavar="FILE")
    options = parser.parse_args()
    damaged = peers.TARGET / "tmp/clients-damaged.jpg"
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_bytes(PHOTOS[0].read_bytes()[:900])
    with peers.Service(options.program, "--model", MODEL) as service:
        hugging_face(service, damaged)
        triton(service, damaged)
    with peers.Service(options.program, "--model", MODEL, "--api-key", "secret") as service:
        hugging_face_with_a_key(service)


if __name__ == "__main__":
    main()
