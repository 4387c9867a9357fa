"""The parts of `scripts/gpu-check`.

`main` reads the command line and runs the parts one after the other, each shut off from the failures of the others; a part
is a module with `run(check)`, which fills `check.figures` as it goes. `check` holds what a part may use: programs, folders,
time. `report` writes JSON and Markdown, `flops` counts operations, `peer` talks to PyTorch, `random_model` writes a model
folder. The standard library alone: PyTorch runs in a process of its own and may be absent.
"""
