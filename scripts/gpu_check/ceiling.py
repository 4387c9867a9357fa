"""Part `ceiling`: what the device can do at most, as PyTorch's libraries reach it: a large product, a large copy."""

from .check import Absent
from .peer import open_peer


def run(check):
    peer = open_peer(check)
    if not peer:
        raise Absent(check.figures["peer"]["absent"])
    size, bytes_ = (256, 8 << 20) if check.quick else (8192, 2 << 30) if check.cuda else (2048, 256 << 20)
    seconds = check.seconds(5.0, 0.3)
    with peer:
        check.figures["matmul"] = peer.ask("matmul", size=size, dtype=check.dtype, seconds=seconds)
        check.figures["copy"] = peer.ask("copy", bytes=bytes_, seconds=seconds)
